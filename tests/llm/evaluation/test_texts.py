"""`llm.evaluate` on texts and corpora: one process or two, the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import llm
from data_jobs import open_corpus
from llm import evaluate
from llm.model import make_model
from tests.llm.evaluation.run_folders import CLEAN, finetuned, write_run
from tests.llm.folders import make_corpus
from tests.llm.tasks.example_sets import LENGTH, shape, tokenizer

TEXT = "the sea was calm, and the wind was light. " * 20


def told(capsys: pytest.CaptureFixture[str], run: Path, *flags: str) -> dict[str, Any]:
    assert evaluate.main([str(run), "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = make_model(shape(), tokenizer().vocab_size, seed=3)
    return write_run(tmp_path / "run", shape(), made, {"pretrain": {"length": LENGTH}})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


def test_the_loss_of_a_text_is_the_mean_over_its_tokens(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, run, "--text", str(text))
    loaded = llm.load(run)
    ids = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(TEXT).tolist()]
    nats = []
    for first in range(0, len(ids), LENGTH):
        window = torch.tensor([ids[first : first + LENGTH]])
        with torch.no_grad():
            logs = loaded.model(window)[0].log_softmax(1)
        following = [*ids, ids[0]][first + 1 : first + 1 + window.shape[1]]
        nats += [-float(logs[at, token]) for at, token in enumerate(following)]
    assert found["tokens"] == len(ids) == len(nats) and found["bytes"] == len(TEXT)
    assert found["loss"] == pytest.approx(np.mean(nats), abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / len(TEXT), abs=1e-5)


def test_two_processes_say_the_same_of_a_text(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    flags = ["--text", str(text), "--batch", "2"]
    one, two = told(capsys, run, *flags), told(capsys, run, *flags, "--workers", "2")
    assert same(one, two)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_two_processes_say_the_same_of_a_corpus(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = open_corpus(make_corpus(tmp_path))
    tokenizer_of_corpus = corpus.tokenizer
    made = make_model(shape(kind), tokenizer_of_corpus.vocab_size, seed=3)
    recorded = {
        "path": str(corpus.path), "corpus_id": corpus.corpus_id, "vocab_size": tokenizer_of_corpus.vocab_size,
        "tokenizer": tokenizer_of_corpus.fingerprint, "clean": CLEAN,
    }  # fmt: skip
    facts = {"pretrain": {"length": LENGTH}, "corpus": recorded}
    folder = write_run(tmp_path / "run", shape(kind), made, facts)
    tokenizer_of_corpus.save(folder / "tokenizer")
    torch.set_num_threads(1)
    one, two = told(capsys, folder, "--batch", "4"), told(capsys, folder, "--batch", "4", "--workers", "2")
    assert same(one, two)
    assert one["tokens" if kind == "gpt" else "masked_tokens"] > 100


def test_an_instruction_model_is_measured_on_a_text(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, finetuned("instruction", tmp_path / "task"), "--text", str(text))
    assert found["tokens"] > 100 and found["loss"] > 0


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Sums of the same micro-batches, in another order."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float | list) else value), (
            name
        )
    return True
