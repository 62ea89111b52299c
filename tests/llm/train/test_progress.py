"""What a training says while it goes, and at its end."""

from __future__ import annotations

from typing import Any

import pytest

from llm.pretrain import in_a_line
from llm.train.progress import in_words, time_left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 s left"),
        (119, "about 119 s left"),
        (130, "about 2 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_time_left(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


def test_a_run_without_validation_documents_says_so() -> None:
    assert in_words({"step": 0, "time": 1.0}) == "no validation documents"
    assert in_words({"step": 0, "time": 1.0, "val_loss": 9.0}) == "val 9.0000"
    assert in_words({"step": 5, "loss": 2.0}) == "loss 2.0000"


SUMMARY: dict[str, Any] = {
    "parameters": 1200,
    "steps": 5,
    "loss": 2.0,
    "val_loss": None,
    "bits_per_byte": None,
}


def test_the_last_line_has_no_nan() -> None:
    told = in_a_line(SUMMARY)
    assert "no validation documents (corpus.val_fraction)" in told and "nan" not in told
    gpt = in_a_line({**SUMMARY, "val_loss": 2.5, "bits_per_byte": 1.25})
    assert gpt.endswith("validation 2.5000, 1.2500 bits per byte")
    bert = in_a_line({**SUMMARY, "val_loss": 2.5, "val_masked_accuracy": 0.25})
    assert bert.endswith("validation 2.5000, masked accuracy 0.2500")
