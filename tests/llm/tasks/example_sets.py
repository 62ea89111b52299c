"""Small sets of examples of each kind, made as a run makes them."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from llm.finetune_settings import TaskSettings
from llm.settings import FinetuneSettings, ModelSettings
from llm.tasks.examples import ExampleSet, open_examples, prepare_examples
from tests.data_jobs.conftest import make_texts

KINDS = (
    "classification", "multi_label", "regression", "token_classification", "question_answering", "instruction"
)  # fmt: skip
LABELS = ("good", "fair", "bad")
WORDS = ["sea", "wind", "calm", "ship", "harbour", "rain", "the", "a", "cloud", "été", "stone", "light"]
LENGTH = 48
SHAPE = {"layers": 2, "width": 32, "heads": 2, "context": LENGTH, "init": "normal", "init_std": 0.3}


def shape(kind: str = "gpt", **changes: Any) -> ModelSettings:
    """Of a tiny model."""
    return ModelSettings.model_validate({"kind": kind, **SHAPE, **changes})


@functools.cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(50), TokenizerSettings(vocab_size=400))


def records(kind: str, count: int, every_answer: bool = False) -> list[dict[str, Any]]:
    """Examples of random words, each fourth a long one; each fifth question has no answer."""
    chance = random.Random(0)
    found = []
    for number in range(count):
        words = chance.choices(WORDS, k=chance.randint(24, 40) if number % 4 == 0 else chance.randint(3, 10))
        text = " ".join(words)
        match kind:
            case "classification":
                found.append({"text": text, "label": LABELS[number % 3]})
            case "multi_label":
                found.append({"text": text, "label": [name for name in LABELS if chance.random() < 0.5]})
            case "regression":
                found.append({"text": text, "label": chance.gauss(0, 1)})
            case "token_classification":
                found.append({"words": words, "label": [chance.choice(LABELS) for _ in words]})
            case "question_answering":
                first = chance.randrange(len(words))
                answer = " ".join(words[first : first + chance.randint(1, 3)])
                start = len(" ".join(words[:first])) + (first > 0)
                there = every_answer or number % 5
                answers = (
                    {"text": [answer], "answer_start": [start]} if there else {"text": [], "answer_start": []}
                )
                found.append({"text": text, "question": f"which {words[first]}?", "answers": answers})
            case _:
                found.append({"prompt": " ".join(words[:5]), "answer": chance.choice(words)})
    return found


def task_of(kind: str, **changes: Any) -> TaskSettings:
    """With windows where they can be, and the labels in an order of their own."""
    given: dict[str, Any] = {"kind": kind, "stride": 8}
    if kind not in ("token_classification", "instruction"):
        given["too_long"] = "window"
    if kind in ("classification", "multi_label", "token_classification"):
        given["labels"] = LABELS
    return TaskSettings.model_validate(given | changes)


def settings_of(
    kind: str, folder: Path, count: int = 30, every_answer: bool = False, **task: Any
) -> FinetuneSettings:
    """Of a fine-tuning whose test part has a third of so many examples, with their file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}.jsonl"
    lines = [json.dumps(each) + "\n" for each in records(kind, count, every_answer)]
    file.write_text("".join(lines), encoding="utf-8")
    return FinetuneSettings.model_validate(
        {
            "data": {"train": str(file), "val_fraction": 0, "test_fraction": 0.34},
            "task": task_of(kind, **task).model_dump(),
            "length": LENGTH,
        }
    )


def make_set(
    kind: str, folder: Path, model: str = "gpt", count: int = 30, every_answer: bool = False, **task: Any
) -> ExampleSet:
    """Examples in parts train and test."""
    settings = settings_of(kind, folder, count, every_answer, **task)
    out = folder / f"{kind}-{model}"
    prepare_examples(settings, tokenizer(), shape(model), out)
    return open_examples(out)
