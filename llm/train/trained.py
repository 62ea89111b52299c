"""A trained run, found for use: which checkpoint, with what record, with which tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.errors import RunError, UserError
from cluster.places import Place
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm.settings import ModelSettings
from llm.train.checkpoints.layout import INDEX
from llm.train.checkpoints.load import CheckpointReader, newest_good
from llm.train.run_folder import RunFolder

T = TypeVar("T")


@dataclass(frozen=True)
class Trained(Generic[T]):
    """A run at one of its checkpoints."""

    folder: RunFolder
    record: dict[str, Any]
    reader: CheckpointReader
    taken: T
    """What `take` gave for this checkpoint."""

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings.model_validate(self.record["model"])

    def tokenizer(self) -> Tokenizer:
        """RunError where it is not the one that the run was trained with."""
        tokenizer = load_tokenizer(self.folder.tokenizer)
        wanted = self.record["corpus"]["tokenizer"]
        if tokenizer.fingerprint != wanted:
            raise RunError(
                f"{self.folder.tokenizer}: fingerprint {tokenizer.fingerprint}, the run was trained with "
                f"{wanted}"
            )
        return tokenizer


def find_trained(path: Place, take: Callable[[CheckpointReader], T]) -> Trained[T]:
    """A run folder at its newest good checkpoint, or one of its checkpoints. Good: `take` does not raise.

    Of a finished fine-tuning it is the best one, by the number that the run was to compare them by.

    UserError where the path is neither, RunError where a file is damaged.
    """
    if (path / INDEX).exists():
        folder = RunFolder(path.parent.parent)
        record, reader = folder.read_settings(), CheckpointReader(path, weights_only=True)
        return Trained(folder, record, reader, take(reader))
    folder = RunFolder(path)
    record = folder.read_settings()
    found = newest_good(folder.checkpoints, take, _best(folder, record))
    if found is None:
        raise UserError(f"{path}: has no checkpoint yet; train it first: the command that made it continues")
    return Trained(folder, record, *found)


def _best(folder: RunFolder, record: dict[str, Any]) -> str | None:
    summary = folder.read_summary() if "finetune" in record else None
    return summary["best_checkpoint"]["folder"] if summary and summary["best_checkpoint"] else None
