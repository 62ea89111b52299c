"""The model whose weights are a training's first: a run, a checkpoint or an imported folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from cluster import places
from cluster.cache import Cache
from cluster.errors import RunError, UserError
from cluster.fields import values_of_kind
from cluster.places import Place
from data_jobs.tokens.tokenizer import Tokenizer
from llm.exchange.model_folder import is_model_folder, read_imported
from llm.model.lora import merged
from llm.model.tasks import lora_from
from llm.settings import ModelSettings
from llm.train.checkpoints.layout import INDEX, digest
from llm.train.checkpoints.load import CheckpointReader
from llm.train.trained import find_trained

# What may differ from the model that is started from: it changes no tensor.
MAY_DIFFER = ("dropout", "init", "init_std")


@dataclass(frozen=True)
class Start:
    """One model, found once: a run's newest checkpoint stays this one, whatever the run does afterwards."""

    path: Place
    digest: str
    """Of its weights; a start that was changed is refused."""
    settings: ModelSettings
    vocab_size: int
    tokenizer: str
    """Its fingerprint."""
    clean: dict[str, Any]
    """How its texts were cleaned."""
    text_start: list[int] | None
    """What a GPT's text begins with; None: an eos."""
    load_tokenizer: Callable[[], Tokenizer]
    fill: Callable[[nn.Module], None]
    weights: Callable[[], dict[str, Tensor]]
    """All of them by our names, fp32; adapters are merged, what we have no place for is left out."""
    task: Mapping[str, Any] | None = None
    """What it was fine-tuned for, as a run's record has it."""

    @property
    def record(self) -> dict[str, str]:
        """What the run folder and the workers are told."""
        return {"path": str(self.path), "digest": self.digest}


def find_start(path: str, cache: Cache | None = None, check: bool = True) -> Start:
    """UserError where there is no model, RunError where it is damaged.

    Without `check` the weights of a checkpoint are read when `fill` needs them, against their digests, too.
    """
    folder = places.absolute(path)
    if is_model_folder(folder):
        found = read_imported(folder, cache)
        said = found.run_settings()
        return Start(
            folder, found.record["weights"], found.settings, found.vocab_size, found.tokenizer.fingerprint,
            said["corpus"]["clean"], said["text_start"], lambda: found.tokenizer, found.fill, found.weights,
        )  # fmt: skip
    run = find_trained(folder, CheckpointReader.check_weights if check else lambda reader: None)
    corpus, checkpoint = run.record["corpus"], run.reader.folder
    task = run.record.get("task")

    def weights() -> dict[str, Tensor]:
        return merged(run.reader.weights(), run.settings, lora_from(task))

    def fill(model: nn.Module) -> None:
        if task and task["head"]:
            raise UserError(f"{folder}: has the head of a task; only what it began from can be trained on")
        model.load_state_dict(weights(), strict=True)

    index = digest((checkpoint / INDEX).read_bytes())
    return Start(
        checkpoint, index, run.settings, corpus["vocab_size"], corpus["tokenizer"], corpus["clean"],
        run.record.get("text_start"), run.tokenizer, fill, weights, task,
    )  # fmt: skip


def find_again(record: dict[str, str], cache: Cache | None = None) -> Start:
    """In a worker: the start that the driver has found. RunError where it was changed."""
    start = find_start(record["path"], cache, check=False)
    if start.digest != record["digest"]:
        raise RunError(f"start_from: {start.path} was changed since this run began; use --fresh")
    return start


def model_over(start: Start, given: dict[str, Any]) -> ModelSettings:
    """The start's model with the fields that a recipe gives beside it."""
    try:
        return ModelSettings.model_validate(start.settings.model_dump() | given)
    except ValidationError as error:
        what = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise UserError(f"section 'model' over that of {start.path}: {what}") from None


def check_start(start: Start, path: str, model: ModelSettings, tokenizer: str) -> None:
    """UserError where these settings or this tokenizer cannot take the weights."""
    theirs, ours = _effective(start.settings), _effective(model)
    differing = [
        f"model.{name} is {ours[name]!r}, there {theirs[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and name not in MAY_DIFFER
    ]
    if start.tokenizer != tokenizer:
        differing.append(
            f"the corpus was prepared with tokenizer {tokenizer}, the model has {start.tokenizer}: prepare "
            "it with --corpus.tokenizer.path"
        )
    if differing:
        raise UserError(f"start_from {path}: another model: " + "; ".join(differing))


def check_writes(start: Start, path: str) -> None:
    """UserError where the start has a task's head in place of the output layer for tokens."""
    if start.task is not None and start.task["head"] is not None:
        raise UserError(
            f"start_from {path}: it was fine-tuned for {start.task['kind']} and has no output layer for "
            "tokens: start from what that training started from"
        )


def _effective(model: ModelSettings) -> dict[str, Any]:
    """The fields that make a model what it is, defaults written out."""
    return values_of_kind(model, "identity") | {
        "hidden": model.inner,
        "kv_heads": model.groups,
        "head_size": model.head_width,
        "norm_eps": model.norm_eps or (1e-6 if model.norm == "rmsnorm" else 1e-5),
    }
