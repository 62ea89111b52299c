"""Which checkpoints stay, and what a sweep must not touch."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster import places
from cluster.lease import Superseded
from llm.train.checkpoints import layout
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.retention import Beside, Keep
from llm.train.checkpoints.save import CheckpointSaver, best_of, committed_folders, step_of, sweep
from tests.llm.train.test_engines import make_engine


def saver_of(
    folder: Path, attempt: str, keep: int | Keep, steps: Sequence[int], val_loss: float | None = None
) -> None:
    """Save these steps, one after the other."""
    keep = Keep(keep) if isinstance(keep, int) else keep
    saver = CheckpointSaver(folder, make_engine("plain", 1), 0, 1, attempt, keep, {})
    for step in steps:
        saver.save(RunState(step, 8 * step, 0, "run"), val_loss)
    saver.finish()


def steps_in(folder: Path) -> list[int]:
    return [step_of(child) for child in committed_folders(folder)]


def test_old_ones_are_swept_and_the_newest_kept(tmp_path: Path) -> None:
    engine = make_engine("plain", 1)
    saver = CheckpointSaver(tmp_path, engine, 0, 1, "ab" * 6, Keep(2), {})
    for step in (1, 2, 3):
        saver.save(RunState(step, 8 * step, 0, "run"))
    saver.finish()
    assert [CheckpointReader(f).state.step for f in committed_folders(tmp_path)] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(1, every=3), [7, 6, 3]),
        (Keep(2, best=2), [7, 6, 5, 2]),
        (Keep(1, best=1), [7, 2]),
        (Keep(1, every=4, best=1), [7, 4, 2]),
    ],
)
def test_every_nth_and_the_best_are_kept(tmp_path: Path, keep: Keep, left: list[int]) -> None:
    """Losses of each step, None where it was not validated; over a restart that knows the folder alone."""
    losses = [None, 2.0, None, 3.0, 2.5, None, None]
    for steps, attempt in (((1, 2, 3, 4), "ab" * 6), ((5, 6, 7), "cd" * 6)):
        saver = CheckpointSaver(tmp_path, make_engine("plain", 1), 0, 1, attempt, keep, {})
        for step in steps:
            saver.save(RunState(step, 8 * step, 0, "run"), losses[step - 1])
        saver.finish()
    assert [CheckpointReader(f).state.step for f in committed_folders(tmp_path)] == left
    assert len(list(tmp_path.iterdir())) == len(left)


def test_a_damaged_newer_one_does_not_push_out_the_good(tmp_path: Path) -> None:
    """keep 1, and a damaged checkpoint of a later step: what was committed just now stays."""
    engine = make_engine("plain", 1)
    later = CheckpointSaver(tmp_path, engine, 0, 1, "ab" * 6, Keep(1), {})
    later.save(RunState(9, 72, 0, "run"))
    later.finish()
    saver = CheckpointSaver(tmp_path, engine, 0, 1, "cd" * 6, Keep(1), {})
    saver.save(RunState(5, 40, 0, "run"))
    saver.finish()
    assert layout.folder_name(5, "cd" * 6) in [folder.name for folder in committed_folders(tmp_path)]


def superseded(folder: Path) -> None:
    raise Superseded("another writes")


def swept(folder: Path) -> None:
    shutil.rmtree(folder / layout.folder_name(2, "ab" * 6))


@pytest.mark.parametrize(
    ("meanwhile", "left"), [(superseded, [6, 4, 2]), (swept, [6, 4])], ids=["told by the lease", "swept"]
)
def test_who_was_followed_sweeps_nothing(
    tmp_path: Path, meanwhile: Callable[[Path], None], left: list[int]
) -> None:
    """It committed, was stopped, and another has taken the run over when it comes to remove old ones."""
    saver_of(tmp_path, "cd" * 6, 9, (4, 6))
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) == 2:  # before the sweep; the first time is before the commit
            meanwhile(tmp_path)

    saver = CheckpointSaver(tmp_path, make_engine("plain", 1), 0, 1, "ab" * 6, Keep(1), {}, check)
    saver.save(RunState(2, 16, 0, "run"))
    with pytest.raises(Superseded) if meanwhile is superseded else contextlib.nullcontext():
        saver.finish()
    assert steps_in(tmp_path) == left


def test_a_failed_sweep_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    saver_of(tmp_path, "cd" * 6, 9, (1,))

    def denied(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(places, "delete_tree", denied)
    saver_of(tmp_path, "ab" * 6, 1, (2, 3))
    assert steps_in(tmp_path)[0] == 3
    assert "old checkpoints stay" in capfd.readouterr().err


def test_the_best_stays_where_its_index_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver_of(tmp_path, "cd" * 6, 9, (1,), 2.0)
    index = tmp_path / layout.folder_name(1, "cd" * 6) / layout.INDEX
    read = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path == index:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    saver_of(tmp_path, "ab" * 6, Keep(1, best=1), (2,), 3.0)
    assert steps_in(tmp_path) == [2, 1]


def test_late_losses_and_waiting_ones_count(tmp_path: Path) -> None:
    """best: by a loss that came after the commit, too; what waits for its validation stays for now."""
    saver_of(tmp_path, "cd" * 6, 9, (1, 2, 3, 4, 5))
    newest, *_ = committed_folders(tmp_path)
    losses = {layout.folder_name(step, "cd" * 6): loss for step, loss in ((1, 3.0), (2, 2.0), (5, 2.5))}
    waits = {layout.folder_name(3, "cd" * 6)}
    keep = Keep(1, best=1)
    sweep(newest, keep, Beside(losses, lambda name, step: name in waits and step == 3))
    assert steps_in(tmp_path) == [5, 3, 2]
    assert best_of(tmp_path, losses) == {
        "folder": layout.folder_name(2, "cd" * 6), "step": 2, "val_loss": 2.0,
    }  # fmt: skip
    sweep(newest, keep, Beside(losses))
    assert steps_in(tmp_path) == [5, 2]


def test_what_has_a_number_of_its_own_waits_for_none(tmp_path: Path) -> None:
    """Of a start whose workers validated themselves: validation beside them does not want it again."""
    saver_of(tmp_path, "cd" * 6, 9, (1, 2), 2.0)
    sweep(committed_folders(tmp_path)[0], Keep(1), Beside(needs=lambda name, step: True))
    assert steps_in(tmp_path) == [2]
