"""What is measured: a trained model with its tokenizer and the record of its run."""

from __future__ import annotations

from typing import Any, Protocol

from data_jobs.tokens.tokenizer import Tokenizer
from llm.model import Model


class Subject(Protocol):
    """What `llm.load` gives."""

    @property
    def model(self) -> Model: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def step(self) -> int: ...


def trained(subject: Subject, name: str, otherwise: Any) -> Any:
    """A setting of the training; `otherwise` for an imported model."""
    section = "finetune" if "finetune" in subject.settings else "pretrain"
    return subject.settings.get(section, {}).get(name, otherwise)


def text_start(subject: Subject) -> list[int]:
    """The ids that stand before a text: as in training, or what an imported model has there."""
    start: list[int] = subject.settings.get("text_start", [subject.tokenizer.eos_id])
    return start


def context_of(subject: Subject) -> int:
    """Tokens that the model was trained to see; of an imported one, that it can see."""
    context = subject.model.settings.context
    return min(context, int(trained(subject, "length", context)))


def never_written(subject: Subject) -> list[int]:
    """Ids that a model must not write: specials but the eos, rows of the vocabulary without a token."""
    tokenizer = subject.tokenizer
    specials = {*tokenizer.specials.values(), *range(tokenizer.vocab_size, subject.model.vocab_size)}
    specials.update(subject.settings.get("suppressed", ()))
    return sorted(specials - {tokenizer.eos_id})
