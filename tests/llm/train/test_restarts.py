"""When a group was started in vain often enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import RunError
from llm.train.restarts import count_start, remember_cause
from llm.train.run_folder import RunFolder


def test_progress_is_what_counts(tmp_path: Path) -> None:
    """Any number of starts with a new checkpoint between; at the same step no more than was allowed."""
    folder = RunFolder(tmp_path)
    for step in range(0, 50, 5):
        count_start(folder, "launch", step, 1)
    count_start(folder, "launch", 45, 1)
    remember_cause(folder, "worker 1: the node is gone")
    with pytest.raises(
        RunError, match=r"2 times in a row from step 45 .*step 45 is the last good one"
    ) as info:
        count_start(folder, "launch", 45, 1)
    assert "worker 1: the node is gone" in str(info.value)


def test_the_same_command_again_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for launch in "abc":
        count_start(folder, launch, 5, 0)
    with pytest.raises(RunError, match="a process was lost"):
        count_start(folder, "c", 5, 0)


def test_without_a_checkpoint_none_is_spoken_of(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    count_start(folder, "launch", 0, 0)
    with pytest.raises(RunError, match="there is no checkpoint yet"):
        count_start(folder, "launch", 0, 0)


def test_a_folder_that_is_gone_hurts_nobody(tmp_path: Path) -> None:
    remember_cause(RunFolder(tmp_path / "gone"), "x")
    assert not (tmp_path / "gone").exists()
