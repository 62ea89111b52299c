"""The run folder: whose it is, and what a log looks like after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llm
from cluster.errors import RunError, UserError
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import join_digest, split_digest
from llm.train.run_folder import RunFolder, begin_run, open_run, set_aside
from llm.train.run_order import even_micro_batch
from llm.train.tracking import MetricsFile

CORPUS = {"path": "/c", "corpus_id": "a1", "tokenizer": "t1", "vocab_size": 9}


def open_with(
    folder: Path, accept: tuple[str, ...] = (), corpus: dict[str, Any] = CORPUS, **changes: Any
) -> Any:
    model = ModelSettings(**changes.pop("model", {}))
    record = open_run(RunFolder(folder), model, PretrainSettings(**changes), {"corpus": corpus}, accept)
    begin_run(RunFolder(folder), record)
    return record


def test_the_same_run_goes_on_and_free_fields_may_change(tmp_path: Path) -> None:
    first = open_with(tmp_path / "run", steps=5)
    again = open_with(tmp_path / "run", steps=5, zero_stage=3, workers=2, log_every=7)
    assert again["run_id"] == first["run_id"]
    assert json.loads((tmp_path / "run/settings.json").read_text())["pretrain"]["zero_stage"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"layers": 7}}, ["model.layers", "4 there, 7 now", "identity"]),
        ({"seed": 3}, ["pretrain.seed", "0 there, 3 now"]),
        ({"optimizer": {"lr": 0.5}}, ["pretrain.optimizer.lr", "0.001 there, 0.5 now", "plan"]),
        ({"corpus": CORPUS | {"corpus_id": "b2"}}, ["corpus.corpus_id", "'a1' there, 'b2' now"]),
        ({"corpus": CORPUS | {"tokenizer": "t2"}, "batch": 8}, ["corpus.tokenizer", "pretrain.batch"]),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    open_with(tmp_path)
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(UserError) as caught:
        open_with(tmp_path, **changes)
    assert all(word in str(caught.value) for word in [*words, "--fresh"])
    assert (tmp_path / "settings.json").read_bytes() == before


def test_a_plan_field_may_be_accepted_and_is_recorded(tmp_path: Path) -> None:
    open_with(tmp_path, steps=5)
    record = open_with(tmp_path, ("pretrain.steps",), steps=9)
    assert [(a["field"], a["old"], a["new"]) for a in record["accepted"]] == [("pretrain.steps", 5, 9)]
    with pytest.raises(UserError, match="model.width"):
        open_with(tmp_path, ("model.width",), steps=9, model={"width": 64})


def test_fields_of_the_order_cannot_be_accepted_and_the_message_says_so(tmp_path: Path) -> None:
    open_with(tmp_path, steps=5, batch=4)
    with pytest.raises(UserError) as caught:
        open_with(tmp_path, ("pretrain.batch",), steps=5, batch=8)
    text = str(caught.value)
    assert "No --accept for pretrain.batch: the order" in text and "--fresh" in text
    assert "--accept pretrain" not in text
    with pytest.raises(UserError) as caught:
        open_with(tmp_path, steps=6, batch=8)
    assert "--accept pretrain.steps" in str(caught.value) and "--accept pretrain.batch" not in str(
        caught.value
    )


def test_a_folder_that_is_not_there_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nope: no such folder"):
        llm.read_metrics(tmp_path / "nope")
    with pytest.raises(UserError, match=r"no run folder: it has no settings\.json"):
        llm.read_metrics(tmp_path)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="no run of ours"):
        open_with(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_start_left_is_no_strangers(tmp_path: Path) -> None:
    """Killed, or seen by another start, while it wrote the settings."""
    (tmp_path / ".settings.json.x1.tmp").write_text("{")
    assert open_with(tmp_path)


def test_fresh_moves(tmp_path: Path) -> None:
    open_with(tmp_path / "run")
    aside = set_aside(tmp_path / "run")
    assert aside is not None and (aside / "settings.json").exists() and not list((tmp_path / "run").iterdir())


def test_metrics_after_a_kill(tmp_path: Path) -> None:
    """A torn last line is passed over, lines that will come again are dropped, a damaged one is named."""
    open_with(tmp_path)
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25}\n{"step": 3, "lo')
    assert [row["step"] for row in llm.read_metrics(tmp_path)] == [0, 1, 2]
    sink = MetricsFile(file, 1)
    sink.log({"step": 2, "loss": 0.1 + 0.2})
    sink.finish(0)
    rows = llm.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2] and rows[2]["loss"] == 0.1 + 0.2
    file.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl: a line is damaged"):
        llm.read_metrics(tmp_path)


def test_digests_add_up_whoever_holds_them() -> None:
    parts = [2**64 - 1, 2**63 + 12345, 7]
    sums = [sum(column) for column in zip(*(split_digest(p) for p in parts), strict=True)]
    assert join_digest(sums) == sum(parts) % 2**64


@pytest.mark.parametrize(
    ("batch", "world", "most", "rows"),
    [(16, 2, 16, 8), (16, 1, 6, 6), (10, 3, 4, 4), (7, 2, 3, 2), (5, 5, 9, 1)],
)
def test_micro_batches_are_even(batch: int, world: int, most: int, rows: int) -> None:
    assert even_micro_batch(batch, world, most) == rows <= most
