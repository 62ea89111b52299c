"""Receipts and scratch files: what is waited for, what is damaged, how much is held at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.places import write_json
from data_jobs import run_writer, work
from data_jobs.key_ranges import WHOLE, read_range
from data_jobs.run_writer import RunWriter
from data_jobs.runs import RunFile
from data_jobs.work import Job, wait_for_receipt
from tests.data_jobs.conftest import settings_for


def test_a_receipt_that_comes_to_sight_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, where another machine's files may be hidden for seconds; the file that it names, too."""
    monkeypatch.setattr(work, "POLL_SECONDS", 0.02)
    job: Job = {"stage": "clean", "receipt": str(tmp_path / "done.json")}
    made = tmp_path / "run.arrow"
    timers = [
        threading.Timer(0.1, write_json, (job["receipt"], {"files": [str(made)]})),
        threading.Timer(0.2, made.touch),
    ]
    for timer in timers:
        timer.start()
    assert wait_for_receipt(job) == {"files": [str(made)]}


def test_a_receipt_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "WAIT_SECONDS", 0.1)
    job: Job = {"stage": "clean", "receipt": str(tmp_path / "done.json")}
    with pytest.raises(RunError, match=r"stage clean: .*done\.json.*all machines must see this folder"):
        wait_for_receipt(job)


def test_an_error_of_the_machine_is_no_damage(tmp_path: Path) -> None:
    """To remove the scratch would lose hours, and change nothing."""
    for read in (RunFile, lambda path: read_range([str(path)], WHOLE)):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")
        (tmp_path / "bad").write_bytes(b"no run" * 100)
        with pytest.raises(RunError, match="bad: damaged scratch file"):
            read(tmp_path / "bad")


def test_short_documents_are_counted_with_what_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_writer, "RUN_BYTES", 100_000)
    texts = [f"line {n}" for n in range(1_000)]
    writer = RunWriter(settings_for("in.jsonl"), "docs", tmp_path)
    for n, text in enumerate(texts):
        writer.add(text, {"url": "u"}, f'{{"line": {n}}}')
    made = writer.close()
    assert max(run["documents"] for run in made) < 200 and sum(run["documents"] for run in made) == 1_000
    assert sum(run["bytes"] for run in made) == sum(map(len, texts))
    again = RunWriter(settings_for("in.jsonl"), "docs", tmp_path / "again")
    for text in texts:
        again.add(text, {"url": "u"}, '{"file": "a much longer path of the same file"}')
    assert [run["name"] for run in again.close()] == [run["name"] for run in made]
