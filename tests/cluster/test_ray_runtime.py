"""Where outputs may go when a job runs on several nodes."""

from __future__ import annotations

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
