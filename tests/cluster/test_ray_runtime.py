"""Where outputs may go when a job runs on several nodes, and which lines of Ray are shown."""

from __future__ import annotations

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
