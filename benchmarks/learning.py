"""What two trainings learn from the same: our GPT by the real command, transformers' GPT-2 in a plain loop.

Same shape, start weights (ours, exported), batches, optimizer and schedule, on real text, for three seeds.
The curves of the validation loss are drawn into docs/images/learning.svg.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bare_loop import make_optimizer
from benchmarks.curves import Curve, draw
from benchmarks.ground import GPT2, TINY, Ground, Sections
from benchmarks.machine import cores
from benchmarks.process import run_module
from benchmarks.rows import Row
from cluster.recipe import load_recipe
from data_jobs.shards.corpus import Corpus, open_corpus
from llm.data.batches import BatchPlan
from llm.data.loader import Loader
from llm.data.samples import MicroBatch
from llm.data.validation import validation_of_corpus
from llm.exchange.exporting import Source, export_model
from llm.model import make_model
from llm.settings import ModelSettings, PretrainSettings
from llm.train.run_folder import read_metrics
from llm.train.run_order import make_order, make_rule
from llm.train.schedule import learning_rate

GOAL = "0.995 <= ratio <= 1.005"
PEER = "GPT2LMHeadModel in a plain loop"
SEEDS = (0, 1, 2)
MODEL = {**GPT2, "layers": 4, "width": 128, "heads": 4, "context": 128}
PRETRAIN: dict[str, Any] = {
    "steps": 400, "batch": 16, "length": 128, "micro_batch": 16, "engine": "deepspeed", "launch": "here",
    "optimizer": {"lr": 2e-3}, "schedule": {"kind": "cosine", "warmup_steps": 40},
    "validation": {"every": 50, "max_samples": 256},
    "checkpoint": {"every": 400}, "wandb": {"mode": "disabled"},
}  # fmt: skip
CORPUS = {"tokenizer": {"vocab_size": 2048}, "val_fraction": 0.05}
QUICK = {"steps": 6, "batch": 4, "length": 64, "micro_batch": 4, "engine": "plain"}

Losses = dict[int, float]
"""Validation loss in nats a token, by the step before which it was measured."""


def run(ground: Ground) -> list[Row]:
    """A row for each seed, and the picture."""
    torch.set_num_threads(cores())
    own = ground.with_sections("learning", sections_of(ground))
    given = ground.text is not None and is_corpus(ground.text)
    corpus = open_corpus(str(ground.text)) if given else own.corpus
    rows, curves = [], []
    for seed in SEEDS[:1] if own.quick else SEEDS:
        ours, theirs = our_losses(own, corpus, seed), their_losses(own, corpus, seed)
        if ours.keys() != theirs.keys():
            raise AssertionError(f"validated at {sorted(ours)} and {sorted(theirs)}")
        curves.append(Curve(f"seed {seed}", ours, theirs))
        rows.append(row_of(own, corpus, seed, ours, theirs))
        ground.say(f"learning, {rows[-1].what}: {rows[-1].ours:.4f}, {rows[-1].peer:.4f}")
    ground.pictures["learning.svg"] = draw(
        "What Manta and transformers' GPT-2 learn from the same start and batches", curves
    )
    return rows


def sections_of(ground: Ground) -> Sections:
    """The recipe: on the text that was given, else on the demo's."""
    corpus, model, pretrain = dict(CORPUS), MODEL, dict(PRETRAIN)
    if ground.quick:
        corpus = TINY["corpus"] | {"val_fraction": 0.2}
        model = MODEL | {"layers": 1, "width": 32, "heads": 2, "context": 64}
        pretrain |= QUICK | {"schedule": {"warmup_steps": 2}, "validation": {"every": 3}}
    if ground.text is not None and not is_corpus(ground.text):
        corpus["sources"] = [source_of(ground.text)]
    return {"corpus": corpus, "model": model, "pretrain": pretrain}


def is_corpus(path: Path) -> bool:
    """Whether `data_jobs.prepare` made it."""
    return (path / "manifest.json").is_file()


def source_of(path: Path) -> dict[str, Any]:
    """A folder, file or glob of JSON lines or of plain text."""
    lines = any(".jsonl" in file.name for file in ([path] if path.is_file() else path.rglob("*")))
    return {"name": "text", "path": str(path.resolve()), "format": "jsonl" if lines else "text"}


def row_of(ground: Ground, corpus: Corpus, seed: int, ours: Losses, theirs: Losses) -> Row:
    """The end of both, with how far apart they were on the way."""
    last = max(ours)
    apart = max(abs(ours[step] / theirs[step] - 1) for step in ours)
    settings = ground.pretrain
    note = (
        f"{ground.model.layers} layers, width {ground.model.width}, vocabulary "
        f"{corpus.tokenizer.vocab_size:,}, fp32, {settings.steps} steps of {settings.batch} x "
        f"{settings.length}; {settings.engine} engine; at the start {ours[0]:.4f} and {theirs[0]:.4f}; most "
        f"apart on the way {apart:.3%}"
    )
    return Row(
        f"validation loss after training, seed {seed}", "nats/token", ours[last], theirs[last], PEER, GOAL,
        note,
    )  # fmt: skip


def our_losses(ground: Ground, corpus: Corpus, seed: int) -> Losses:
    """By the command."""
    out = ground.fresh("run")
    run_module(
        ground.log(), "llm.pretrain", ground.recipe_path, "--pretrain.corpus", str(corpus.path),
        "--pretrain.out", str(out), "--pretrain.seed", str(seed), "--pretrain.cpus_per_worker", str(cores()),
    )  # fmt: skip
    return {row["step"]: row["val_loss"] for row in read_metrics(out) if "val_loss" in row}


def their_losses(ground: Ground, corpus: Corpus, seed: int) -> Losses:
    """By a loop of a screen, over the same batches."""
    recipe = load_recipe(ground.recipe_path, {"pretrain.seed": str(seed)})
    shape, settings = recipe.need(ModelSettings), recipe.need(PretrainSettings)
    model = exported(corpus, shape, seed, ground.fresh("exported"))
    optimizer = make_optimizer(model, settings.optimizer)
    rule = make_rule(corpus, shape, settings)
    order = make_order(corpus, settings, rule)
    plan = BatchPlan([(0, settings.batch)])
    loader = Loader(corpus, "train", order, plan, 0, 1, settings.batch)

    def validate(most: int | None) -> float:
        rows = validation_of_corpus(
            corpus, "val", settings.length, settings.validation.batch, max_rows=most, rule=rule
        )
        return mean_loss(model, rows)

    losses = {0: validate(settings.validation.max_samples)}
    with loader.iterate(0, settings.steps) as batches:
        for batch in batches:
            (micro,) = batch.micro
            (summed_loss(model, micro) / batch.tokens).backward()
            if settings.optimizer.clip:
                nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip)
            rate = learning_rate(batch.step, settings.steps, settings.optimizer.lr, settings.schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = batch.step + 1
            if done == settings.steps:
                losses[done] = validate(None)
            elif done % settings.validation.every == 0:
                losses[done] = validate(settings.validation.max_samples)
    return losses


def exported(corpus: Corpus, settings: ModelSettings, seed: int, out: Path) -> Any:
    """Our fresh weights in transformers' GPT-2, by way of a folder of Hugging Face's."""
    import transformers

    weights = make_model(settings, corpus.tokenizer.vocab_size, seed).state_dict()
    weights.pop("lm_head.weight")  # tied
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    export_model(Source(settings, corpus.tokenizer, shapes, weights.__getitem__), out, 1 << 30)
    return transformers.GPT2LMHeadModel.from_pretrained(out).train()


def summed_loss(model: Any, micro: MicroBatch) -> Tensor:
    """Nats of the targets with weight."""
    ids, targets, weights = (torch.from_numpy(a) for a in (micro.inputs, micro.targets, micro.weights))
    logits = model(input_ids=ids, use_cache=False).logits
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (nats * weights.flatten()).sum()


@torch.no_grad()
def mean_loss(model: Any, rows: Iterable[MicroBatch]) -> float:
    """Nats a token."""
    model.eval()
    sums = [(summed_loss(model, micro).item(), float(micro.weights.sum(dtype="f8"))) for micro in rows]
    model.train()
    return math.fsum(nats for nats, _ in sums) / math.fsum(tokens for _, tokens in sums)
