"""Fine-tune a model on a task: `python -m llm.finetune RECIPE [--section.key VALUE ...]`."""

from __future__ import annotations

import difflib
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from cluster import places
from cluster.errors import UserError, run_command
from cluster.recipe import Recipe
from cluster.settings import ClusterSettings
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm.model.tasks import check_task
from llm.settings import FinetuneSettings, ModelSettings
from llm.tasks.examples import examples_key, prepare_examples
from llm.tasks.heads import head_of
from llm.tasks.scoring import metric_names
from llm.train.checkpoints.save import committed_folders
from llm.train.launch import check_length, tell_of_padding
from llm.train.run_folder import RunFolder, open_run
from llm.train.running import Prepared, Run, RunOptions, train_command, train_run
from llm.train.start import check_start, check_writes, find_start, model_over

DESCRIPTION = """Fine-tune a pretrained model, ours or an imported one, on a task: examples in JSON lines, CSV
or Parquet. The same command again continues from the last good checkpoint; a finished run is left alone.
(A pretrained model learns a new corpus, without a task, by llm.pretrain with pretrain.start_from.)"""


def main(argv: list[str]) -> int:
    return train_command("finetune", DESCRIPTION, argv, run, in_a_line)


def run(recipe: Recipe) -> dict[str, Any]:
    """Fine-tune to the end, or go on with what is there; the summary. Ray may be initialised already."""
    return train_run(*prepare(recipe))


def prepare(recipe: Recipe) -> Prepared:
    """All that can be checked before anything starts, with the examples as rows; what `train_run` takes."""
    began = time.time()
    options = RunOptions.of(recipe.options)
    settings = recipe.need(FinetuneSettings)
    folder = RunFolder(places.absolute(recipe.out("finetune")))
    cluster = recipe.get(ClusterSettings)
    base = _base(recipe, settings, folder, options)
    settings = settings.model_copy(update={"start_from": str(places.absolute(base.given))})
    check_length(base.model, settings)
    check_task(base.model, settings)
    made_of = (settings, base.tokenizer, base.model)
    root = places.absolute(settings.examples) if settings.examples else folder.path.parent / "examples"
    examples = root / examples_key(*made_of, base.text_start)[:16]  # runs that differ elsewhere share it
    record = prepare_examples(*made_of, examples, base.text_start)
    settings = with_steps(settings, record["parts"]["train"]["rows"])
    _check_metric(settings, record)
    head = head_of(record, settings.task)
    data = {
        "corpus": {
            "path": None,
            "tokenizer": base.tokenizer.fingerprint,
            "vocab_size": base.vocab_size,
            "clean": base.clean,
        },
        **({} if base.text_start is None else {"text_start": base.text_start}),
        "examples": {"path": str(examples), "digest": record["digest"]},
        "task": {
            "kind": record["kind"],
            "labels": record["labels"],
            "head": None if head is None else asdict(head),
            "lora": settings.lora.model_dump(mode="json") if settings.lora.rank else None,
        },
    }

    def opened() -> dict[str, Any]:
        return open_run(folder, base.model, settings, data, options.accept, options.fresh, base.start)

    opened()  # refuses other settings, before anybody is waited for
    tell_of_padding(settings)
    out = recipe.out("finetune")
    this = Run(folder, settings, str(examples), base.vocab_size, base.start, cluster, out, began)
    return this, options, opened, lambda record: base.tokenizer.save(folder.tokenizer)


@dataclass(frozen=True)
class Base:
    """What is fine-tuned: the model that a run starts from, or what a run that goes on has kept of it."""

    model: ModelSettings
    vocab_size: int
    tokenizer: Tokenizer
    given: str
    """`start_from`, or what stands for it."""
    start: dict[str, str]
    """What was found there."""
    clean: dict[str, Any]
    """How its texts were cleaned."""
    text_start: list[int] | None
    """What a GPT's text begins with; None: an eos."""


def _base(recipe: Recipe, settings: FinetuneSettings, folder: RunFolder, options: RunOptions) -> Base:
    given = recipe.get(ModelSettings).model_dump(exclude_unset=True) if "model" in recipe.sections else {}
    path = settings.start_from or recipe.out("pretrain")
    if not options.fresh and committed_folders(folder.checkpoints):  # the start may be gone by now
        saved = folder.read_settings()
        model = ModelSettings.model_validate(saved["model"] | given)
        corpus = saved["corpus"]
        if "start" in saved and saved["start"] is not None:
            return Base(
                model, corpus["vocab_size"], load_tokenizer(folder.tokenizer), path, saved["start"],
                corpus["clean"], saved.get("text_start"),
            )  # fmt: skip
    if settings.start_from is None and not places.absolute(path).exists():
        raise UserError(
            f"{recipe.path}: finetune.start_from is not given, and {path} is not there: pretrain it "
            "first, or name a run or an imported model"
        )
    start = find_start(path, recipe.get(ClusterSettings).cache)
    tokenizer = start.load_tokenizer()
    model = model_over(start, given)
    if settings.task.kind == "instruction":
        check_writes(start, path)
    check_start(start, path, model, tokenizer.fingerprint)
    return Base(model, start.vocab_size, tokenizer, path, start.record, start.clean, start.text_start)


def _check_metric(settings: FinetuneSettings, record: dict[str, Any]) -> None:
    """UserError where `best_by` is no number of this task, or is never measured."""
    known = [f"val_{name}" for name in metric_names(record["kind"], record["labels"])]
    if settings.best_by not in known:
        near = difflib.get_close_matches(settings.best_by, known, 1)
        raise UserError(
            f"finetune.best_by {settings.best_by!r}: task {record['kind']} has no such number"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" It has {', '.join(known)}"
        )
    if "val" not in record["parts"] and (settings.early_stop.patience or settings.checkpoint.keep_best):
        raise UserError(
            "finetune.early_stop and checkpoint.keep_best compare validations, and there is no validation "
            "part: give data.val or data.val_fraction, or set checkpoint.keep_best 0 without early_stop"
        )


def with_steps(settings: FinetuneSettings, rows: int) -> FinetuneSettings:
    """The settings with the steps that `epochs` come to, checked as a whole again."""
    if settings.epochs is None:
        return settings
    steps = max(1, math.ceil(settings.epochs * rows / settings.batch))
    try:
        return FinetuneSettings.model_validate(settings.model_dump() | {"steps": steps, "epochs": None})
    except ValidationError as error:
        what = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise UserError(f"finetune.epochs {settings.epochs:g} are {steps} steps: {what}") from None


def in_a_line(summary: dict[str, Any]) -> str:
    """A finished run in a line."""
    words = [f"{summary['parameters']:,} parameters", f"{summary['steps']} steps"]
    if summary["stopped_early"]:
        words.append("stopped early")
    best = {name.removeprefix("val_"): v for name, v in summary["best"].items() if name != "step"}
    shown = [
        name for name in ("loss", "accuracy", "f1", "f1_macro", "exact_match", "pearson") if name in best
    ]
    numbers = ", ".join(f"{name} {best[name]:.4f}" for name in shown)
    if numbers:
        words.append(f"best by {summary['best_by']} at step {summary['best']['step']}: {numbers}")
    return ", ".join(words)


if __name__ == "__main__":
    run_command(main)
