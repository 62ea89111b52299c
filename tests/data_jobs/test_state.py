"""What starts that were cut short leave in the output folder, and what the next start takes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import lease
from cluster.errors import UserError
from data_jobs.pipeline import Build
from data_jobs.reading.inputs import list_files
from data_jobs.state import begin, check_clearable, clear, look
from data_jobs.work import run_here
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl
from tests.data_jobs.test_pipeline import SMALL, look_at, run_and_kill


def test_scratch_that_does_not_say_its_settings_is_not_used(tmp_path: Path, texts: list[str]) -> None:
    """As a removal leaves it that was cut short: by other filters its receipts are of another corpus."""
    path, out = write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out"
    assert run_and_kill(path, out, "prepare.after_train") == -9
    (out / ".work/settings.json").unlink()
    other = settings_for(path, **SMALL, split_bytes=20_000, filters={"length": {"min_words": 20}})
    assert look_at(other, out) == "new"
    assert prepare(other, out)["counts"]["documents"]["dropped"]["length_few_words"] > 20
    prepare(other, tmp_path / "whole")
    assert fingerprint(out) == fingerprint(tmp_path / "whole")


def test_scratch_is_by_settings(tmp_path: Path) -> None:
    one = begin(tmp_path, {"seed": 1})
    (one / "clean").mkdir(parents=True)
    assert begin(tmp_path, {"seed": 1}) == one and (one / "clean").exists()
    (tmp_path / ".work/settings.json").unlink()
    other = begin(tmp_path, {"seed": 2})
    assert not one.exists() and other != one  # what still writes for the first settings, writes elsewhere


class Killed(BaseException):
    """In the middle of a removal."""


def dying(left: list[int], removal: Callable[..., None]) -> Callable[..., None]:
    """A removal that is not come to, once `left` others were done."""

    def remove(*args: Any, **options: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        removal(*args, **options)

    return remove


def test_fresh_that_is_cut_short_anywhere_goes_on(
    tmp_path: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = 0
    for moment in range(50):
        out = tmp_path / f"out{moment}"
        shutil.copytree(corpus_folder, out)
        with monkeypatch.context() as patch:
            left = [moment]
            patch.setattr(Path, "unlink", dying(left, Path.unlink))
            patch.setattr(shutil, "rmtree", dying(left, shutil.rmtree))
            try:
                clear(out)
                break
            except Killed:
                moments += 1
        check_clearable(out)
        if moment:
            assert not (out / "manifest.json").exists() and look(out, {}, [], []) == "new"
        (out / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match="not empty and not a corpus"):
            check_clearable(out)
        (out / "notes.txt").unlink()
        clear(out)
        assert not any(out.iterdir())
    assert moments > 5 and not any(out.iterdir())


def test_settings_that_give_no_corpus_leave_no_part_of_one(tmp_path: Path, texts: list[str]) -> None:
    """Not even shards of earlier input, which the next settings would take for somebody else's files."""
    path, out = write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out"
    assert run_and_kill(path, out, "prepare.after_merge:job=1") == -9
    path.write_bytes(b'{"body": "a text"}\n' * 50)
    with pytest.raises(UserError, match="50 of 50 records cannot be read"):
        prepare(settings_for(path, **SMALL), out)
    assert not any(out.iterdir())
    prepare(settings_for(path, source={"text_field": "body"}, val_fraction=0.0), out)


def test_input_that_changes_and_changes_back(tmp_path: Path, texts: list[str]) -> None:
    """Shards of both inputs have the same names: a receipt must not speak of the other one's bytes."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", texts)
    assert run_and_kill(folder, out, "prepare.before_manifest") == -9
    names = sorted(path.name for path in (out / "shards").iterdir())
    write_jsonl(folder / "b.jsonl", ["one more"])
    assert run_and_kill(folder, out, "prepare.before_manifest") == -9
    assert sorted(path.name for path in (out / "shards").iterdir()) == names
    (folder / "b.jsonl").unlink()
    prepare(settings_for(folder, **SMALL, split_bytes=20_000), out)
    prepare(settings_for(folder, **SMALL), tmp_path / "whole")
    assert fingerprint(out) == fingerprint(tmp_path / "whole")


def test_a_start_whose_lease_is_taken_writes_no_manifest(tmp_path: Path, texts: list[str]) -> None:
    path, out = write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out"
    settings = settings_for(path, **SMALL)
    with lease.hold(out) as held:

        def progress(title: str, done: int, jobs: int) -> None:
            if title == "merge" and done == jobs:  # another took it for gone, after a long pause of this one
                other = (out / ".lease/000001.json").read_text().replace(held.holder.token, "other")
                (out / ".lease/000002.json").write_text(other.replace('"generation":1', '"generation":2'))

        build = Build(
            settings, out, list_files(settings.sources), run_here, progress, check=held.of_workers.check
        )
        with pytest.raises(lease.Superseded):
            build.run()
    assert any((out / "shards").iterdir()) and not (out / "manifest.json").exists()


def test_receipts_in_the_driver_hold_no_sample(tmp_path: Path, texts: list[str]) -> None:
    """A hundred entries of each split would not fit into memory; what is told of them is bounded."""
    path = write_jsonl(tmp_path / "in.jsonl", [*texts, *texts[:150]])
    path.write_bytes(path.read_bytes() + b"{\n" * 120)
    settings = settings_for(path, **SMALL, split_bytes=5_000, max_bad_fraction=0.5)
    build = Build(settings, tmp_path / "out", list_files(settings.sources), run_here, lambda *_: None)
    build.run()
    receipts = [receipt for stage in build._stages.values() for _, receipt in stage]
    assert len(receipts) > 10 and not any("rejects" in receipt for receipt in receipts)
    entries = build._rejects.entries()
    assert {entry["reason"] for entry in entries} == {"invalid_json", "duplicate"} and len(entries) == 200
    rows = (tmp_path / "out/rejected/docs.jsonl").read_bytes().splitlines()
    assert len(rows) == 200
