"""Several processes that measure together: one result, every failure told, nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest
import torch

from cluster.errors import RunError, UserError
from llm.evaluation.local_workers import run_together, share_of
from llm.train.group import Group


def adds(group: Group, start: float) -> Any:
    values = group.gather([start + group.rank])
    return values, group.sum([1.0]), os.getpid(), torch.get_num_threads()


def fails(group: Group, how: str) -> None:
    if group.rank == 1:
        if how == "ends":
            os._exit(7)
        raise {"user": UserError, "bug": ValueError}[how]("what went wrong")
    group.sum([0.0])  # waits for the other


def test_one_works_in_this_process() -> None:
    assert run_together(adds, 1, 5.0)[:3] == ([[5.0]], [1.0], os.getpid())


def test_several_have_a_share_each() -> None:
    values, count, process, threads = run_together(adds, 2, 5.0)
    assert values == [[5.0], [6.0]] and count == [2.0] and process != os.getpid()
    assert threads == max(1, (os.cpu_count() or 1) // 2)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("user", UserError, "^what went wrong$"),
        ("bug", RuntimeError, "Traceback.*\n(.*\n)*ValueError: what went wrong"),
        ("ends", RunError, "worker 1 of 2 ended with status 7"),
    ],
)
def test_a_failure_is_told_and_all_end(how: str, error: type[Exception], says: str) -> None:
    before = set(multiprocessing.active_children())  # other tests keep theirs for the next ones
    with pytest.raises(error, match=says):
        run_together(fails, 2, how)
    assert set(multiprocessing.active_children()) <= before


def test_shares_are_all_of_it_in_order() -> None:
    for world in (1, 2, 3, 7):
        shares = [share_of(range(5), Group(rank, world, torch.device("cpu"))) for rank in range(world)]
        assert [item for share in shares for item in share] == list(range(5))


def test_no_worker_is_refused() -> None:
    with pytest.raises(UserError, match="--workers must be at least 1"):
        run_together(adds, 0, 1.0)
