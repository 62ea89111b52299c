"""Frozen parameters on every engine: never changed, complete in checkpoints, absent from the optimizer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster import places
from cluster.errors import RunError
from llm.data.samples import Batch, MicroBatch
from llm.finetune_settings import FinetuneSettings
from llm.model.inputs import Inputs
from llm.model.task_model import Head
from llm.model.tasks import choose_trainable, make_task_model, rate_of
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader, load_newest
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver, committed_folders, owned, tensor_table
from llm.train.objective import Objective
from llm.train.optimizers import parameter_groups
from llm.train.selfcheck import bare_copy, check_gradients
from llm.training_settings import OffloadSettings, OptimizerSettings
from tests.llm.train.processes import run_workers
from tests.llm.train.test_checkpoints import group_of
from tests.llm.train.test_engines import BATCH, MODELS, VOCAB, batch_of, part_of

KINDS = ("plain", "zero0", "zero1", "zero2", "zero3", "zero2-cpu", "zero3-cpu")
LORA = {"lora": {"rank": 3, "targets": ["q", "v", "o", "down"]}}
WAYS: dict[str, dict[str, Any]] = {
    "head": {"train_only": "head"},
    "last": {"train_only": "last", "layer_decay": 0.6},
    "lora": LORA,
    "instruction": {**LORA, "task": {"kind": "instruction"}},
    "all": {"layer_decay": 0.6},
}
OPTIMIZER = OptimizerSettings(lr=5e-3, clip=1.0, beta2=0.99)
MUON = OptimizerSettings(kind="muon", lr=5e-3)
SAVED_AT, END = 3, 6


def make(
    way: str, kind: str, world: int, seed: int = 3, optimizer: OptimizerSettings = OPTIMIZER
) -> tuple[Any, Objective]:
    """An engine of a model of which a part trains, and the bare objective of the self-check."""
    settings = FinetuneSettings.model_validate(WAYS[way])
    of = MODELS["gpt" if way == "instruction" else "bert"]
    head = None if way == "instruction" else Head("classification", 3)
    model = make_task_model(of, VOCAB, head, seed, settings.lora)
    with torch.no_grad():  # so that all parts of the adapters learn from the first step on
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    choose_trainable(model, settings)
    objective = Objective(model, "fp32")
    bare = bare_copy(objective)
    rate = partial(rate_of, settings=settings, layers=of.layers)
    if kind == "plain":
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, optimizer, world, rate), bare
    from llm.train.deepspeed_zero import ZeroEngine

    stage, offloaded = int(kind[4]), kind.endswith("cpu")
    offload = OffloadSettings(
        optimizer="cpu" if offloaded else "none", parameters="cpu" if offloaded and stage == 3 else "none"
    )
    engine = ZeroEngine(objective, optimizer, world, stage, BATCH // world // 2, 2, offload, rate=rate)
    return engine, bare


def examples_of(way: str, step: int) -> Inputs:
    """Rows whose class is that of their first token; of the instruction's model the rows of a GPT."""
    if way == "instruction":
        return batch_of(step, "gpt")
    rows = batch_of(step, "bert")
    weights = torch.ones(BATCH, 1)
    weights[step % BATCH] = 0.5  # unequal work for the workers
    documents, segments = rows.documents, rows.segments
    return Inputs(rows.ids, rows.ids[:, :1] % 3, weights, None, documents, segments)


def train_steps(
    way: str, engine: Any, rank: int, world: int, first: int, last: int
) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step, in two micro-batches."""
    records = []
    for step in range(first, last):
        whole = examples_of(way, step)
        assert whole.weights is not None
        scales = torch.zeros(len(engine.objective.model.terms))
        scales[0] = 1 / whole.weights.sum()
        sums = torch.zeros(len(scales))
        for i in (0, 1):
            sums += engine.accumulate(part_of(part_of(whole, rank, world), i, 2), scales, last=i == 1)
        if world > 1:
            torch.distributed.all_reduce(sums)
        records.append((float((sums * scales).sum()), engine.norm()))
        engine.step(lr=5e-3)
    return records


def parts_held(engine: Any, rank: int, world: int) -> list[tuple[str, str, int, Tensor]]:
    """What this worker would save."""
    held = engine.held()
    if not engine.partitioned and world > 1:
        held = owned(held, tensor_table(engine), rank, world)
    return [(f.name, f.state, f.start, f.values.clone()) for f in held]


def train_all(rank: int, world: int, way: str, kinds: tuple[str, ...], muon: bool = False) -> dict[str, Any]:
    found = {}
    for kind in kinds:
        engine, _ = make(way, kind, world, optimizer=MUON if muon else OPTIMIZER)
        losses = train_steps(way, engine, rank, world, 0, END)
        found[kind] = losses, parts_held(engine, rank, world), engine.states
    return found


@pytest.mark.parametrize("way", WAYS)
def test_frozen_parameters_stay_to_the_bit(way: str) -> None:
    """Each engine, two workers: losses are plain's, what is frozen stands in one worker's part, unchanged."""
    alone = run_workers(train_all, 1, way, ("plain",))[0]["plain"][0]
    runs = run_workers(train_all, 2, way, KINDS)
    before = make(way, "plain", 1)[0].objective.model
    frozen = {name for name, p in before.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (way != "all")
    for kind in KINDS:
        assert runs[0][kind][0] == runs[1][kind][0]
        torch.testing.assert_close(
            torch.tensor(runs[0][kind][0]), torch.tensor(alone), rtol=1e-5, atol=0, msg=f"{kind}: differs"
        )
        states = runs[0][kind][2]
        for name, parameter in before.named_parameters():
            parts = sorted(
                ((start, values) for rank in (0, 1) for n, state, start, values in runs[rank][kind][1]
                 if n == name and state == "weight"), key=lambda part: part[0],
            )  # fmt: skip
            ends = np.cumsum([0] + [len(values) for _, values in parts])
            assert [start for start, _ in parts] == ends[:-1].tolist(), f"{kind} {name}: a gap or an overlap"
            whole = torch.cat([values for _, values in parts]).view(parameter.shape)
            same = bytes(whole.numpy().data) == bytes(parameter.detach().numpy().data)
            assert same == (name in frozen), f"{kind} {name}"
            kept = {n for rank in (0, 1) for n, state, *_ in runs[rank][kind][1] if state != "weight"}
            assert (name in kept) == (name not in frozen)
            assert (states[name] == ("weight",)) == (name in frozen)
    assert alone[0][0] > alone[-1][0], "nothing was learnt, so equality says little"


def test_muon_moves_what_is_not_frozen() -> None:
    alone = run_workers(train_all, 1, "last", ("plain",), True)[0]["plain"][0]
    runs = run_workers(train_all, 2, "last", ("plain", "zero1", "zero3"), True)[0]
    for kind, (losses, *_) in runs.items():
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(alone), rtol=1e-5, atol=0, msg=kind)


def save(rank: int, world: int, folder: str, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """A checkpoint with each (way, kind), and how those runs go on."""
    found = {}
    for way, kind in pairs:
        engine, _ = make(way, kind, world)
        train_steps(way, engine, rank, world, 0, SAVED_AT)
        attempt = group_of(rank, world).new_attempt()
        place = places.at(folder) / f"{way}-{kind}-{world}"
        saver = CheckpointSaver(place, engine, rank, world, attempt, Keep(2), {})
        saver.save(RunState(SAVED_AT, 24, 0, "run"))
        found[way, kind] = train_steps(way, engine, rank, world, SAVED_AT, END)
        saver.finish()
    return found


def resume(rank: int, world: int, folder: str, triples: list[tuple[str, str, str]]) -> dict[Any, Any]:
    """From a checkpoint into an engine whose weights, frozen ones too, were others before."""
    found = {}
    for way, name, kind in triples:
        engine, _ = make(way, kind, world, seed=8)
        load_newest(places.at(folder) / name, engine, group_of(rank, world), lambda reader: None)
        found[way, name, kind] = train_steps(way, engine, rank, world, SAVED_AT, END)
    return found


@pytest.mark.timeout(300)
def test_any_world_and_stage_resumes_into_any_other(tmp_path: Path) -> None:
    """Saved by two workers, loaded by one and by two: the same losses, and complete weights by name."""
    pairs = [("lora", "zero3"), ("lora", "zero1"), ("last", "plain"), ("instruction", "zero3")]
    truth = run_workers(save, 2, str(tmp_path), pairs)[0]
    into = ("plain", "zero0", "zero2", "zero3", "zero3-cpu")
    triples = [(way, f"{way}-{kind}-2", to) for way, kind in pairs for to in into]
    for world in (1, 2):
        for (way, name, to), losses in run_workers(resume, world, str(tmp_path), triples)[0].items():
            expected = truth[way, name.split("-")[1]]
            torch.testing.assert_close(
                torch.tensor(losses),
                torch.tensor(expected),
                rtol=1e-5,
                atol=0,
                msg=f"{name} into {to}-{world}",
            )
    for way, kind in pairs:
        reader = CheckpointReader(committed_folders(tmp_path / f"{way}-{kind}-2")[0])
        model = make(way, "plain", 1, seed=8)[0].objective.model
        model.load_state_dict(reader.weights(), strict=True)
        start = make(way, "plain", 1)[0].objective.model.state_dict()
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, start[name]) != parameter.requires_grad, name
        states = {info.name: info.states for info in reader.tensors}
        assert states["token_embed.weight"] == ("weight",)


def check(rank: int, world: int, way: str, kinds: tuple[str, ...], broken: bool) -> list[str]:
    """What the self-check says of each engine; `broken`: it computes another gradient."""
    said = []
    for kind in kinds:
        engine, bare = make(way, kind, world)
        part = part_of(examples_of(way, 0), rank, world)
        arrays = [None if tensor is None else tensor.contiguous().numpy() for tensor in part]
        ids, targets, weights, positions, documents, segments, *_ = arrays
        numbers = np.arange(len(ids))
        micro = MicroBatch(ids, targets, weights, numbers, positions, documents, segments)
        fields = {"engine": "plain"} if kind == "plain" else {"zero_stage": int(kind[4])}
        settings = FinetuneSettings.model_validate({**WAYS[way], **fields, "batch": BATCH})
        if broken:
            with torch.no_grad():  # of the engine's weights, after the copy was made
                next(m for m in engine.objective.modules() if hasattr(m, "lora_a")).scale *= 1.5
        try:
            batch = Batch(0, numbers, BATCH, [micro], 0, 0.0, 0.0, 0)
            check_gradients(engine, bare, batch, group_of(rank, world), settings)
            said.append("")
        except RunError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("way", ["lora", "head", "instruction"])
def test_the_self_check_compares_what_trains(way: str) -> None:
    kinds = ("plain", "zero1", "zero2", "zero3")
    assert run_workers(check, 2, way, kinds, False)[0] == [""] * 4
    if way == "lora":
        assert all("wrong gradient" in words for words in run_workers(check, 2, way, kinds, True)[0])


def test_each_group_has_its_share_of_the_rate() -> None:
    """Plain engine against torch's AdamW with a group for each parameter."""
    settings = FinetuneSettings.model_validate(WAYS["last"])
    engine, _ = make("last", "plain", 1)
    other, _ = make("last", "plain", 1)
    model = other.objective.model
    groups = parameter_groups(engine.objective, OPTIMIZER, partial(rate_of, settings=settings, layers=2))
    assert sorted({group["rate"] for group in groups}) == [0.6, 1.0]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "lr": 5e-3 * rate_of(name, settings, 2), "weight_decay": 0.1 * (p.dim() > 1)}
            for name, p in model.named_parameters()
            if p.requires_grad
        ],
        betas=(0.9, 0.99),
    )
    train_steps("last", engine, 0, 1, 0, 4)
    for step in range(4):
        whole = examples_of("last", step)
        assert whole.weights is not None
        (model.losses(whole)[0] / whole.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    expected = dict(model.named_parameters())
    for name, parameter in engine.objective.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6, msg=name)
