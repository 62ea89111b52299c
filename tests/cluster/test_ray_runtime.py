"""Where outputs may go when a job runs on several nodes, and which lines of Ray are shown."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import ray_runtime
from cluster.errors import UserError


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
