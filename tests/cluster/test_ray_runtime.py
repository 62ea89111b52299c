"""Where outputs may go when a job runs on several nodes, and which lines of Ray are shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from cluster import ray_runtime
from cluster.errors import UserError
from cluster.settings import ClusterSettings


@pytest.mark.parametrize(
    ("path", "many", "refused"),
    [("runs/x", True, True), ("runs/x", False, False), ("/shared/x", True, False)],
)
def test_a_relative_path_on_several_nodes(
    path: str, many: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runtime, "is_many_nodes", lambda: many)
    if refused:
        with pytest.raises(UserError, match=r"set --corpus\.out to an absolute path"):
            ray_runtime.check_output_place(path, "corpus.out")
    else:
        ray_runtime.check_output_place(path, "corpus.out")


def test_lines_of_ray_that_are_no_errors_are_left_out() -> None:
    shown: list[dict[str, Any]] = []
    handle = ray_runtime.without_no_errors(shown.append)
    noise = (
        "core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' and ID: '97' has constructor args"
    )
    handle({"pid": 1, "lines": [noise, "E core_worker.cc:1: out of memory"]})
    handle({"pid": 1, "lines": [noise]})
    assert shown == [{"pid": 1, "lines": ["E core_worker.cc:1: out of memory"]}]


def test_cpus_for_other_work_are_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine with four: whoever trains alone has the rest, and what does not fit is refused at once."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_runtime.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray_runtime.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    beside, settings = ("pretrain.validation.cpus", 1), ClusterSettings()
    assert ray_runtime.cpus_for_each(1, 1, None, "pretrain", settings) == 4
    assert ray_runtime.cpus_for_each(1, 1, None, "pretrain", settings, beside) == 3
    assert ray_runtime.cpus_for_each(3, 3, 1, "pretrain", settings, beside) == 1
    with pytest.raises(
        UserError, match=r"4 CPUs of this machine, of which pretrain\.validation\.cpus takes 1"
    ):
        ray_runtime.cpus_for_each(4, 4, 1, "pretrain", settings, beside)


def test_a_worker_that_does_not_end_is_killed_and_no_other_process() -> None:
    code = "open('/proc/self/comm', 'w').write(name); print('there', flush=True); import time; time.sleep(60)"

    def start(name: str, raylet: int) -> subprocess.Popen[str]:
        environment = os.environ | {"RAY_RAYLET_PID": str(raylet)}
        script = f"name = {name!r}\n{code}"
        child = subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "there\n"
        return child

    children = [start("ray::Hung", 123456), start("ray::Other", 123457), start("tracker", 123456)]
    try:
        assert ray_runtime.end_workers({123456}, 0.1) == [children[0].pid]
        assert children[0].wait(10) == -signal.SIGKILL
        assert [child.poll() for child in children[1:]] == [None, None]
        assert ray_runtime.end_workers(set(), 0.1) == []
    finally:
        for child in children:
            child.kill()
            child.communicate()
