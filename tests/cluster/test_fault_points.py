"""The points at which tests kill a process: exactly there, and once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from cluster.fault_points import fault_point
for i in range(3):
    fault_point("save", step=i, rank=1)
"""


def run(**env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | env, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("save", -9),
        ("save:step=2", -9),
        ("save:step=2:rank=1", -9),
        ("save:step=2:rank=0", 0),
        ("save:step=9", 0),
        ("save:node=1", 0),
        ("load", 0),
        ("", 0),
    ],
)
def test_it_dies_where_all_of_it_matches(fault: str, status: int) -> None:
    assert run(MANTA_FAULT=fault).returncode == status


def test_once(tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    assert run(MANTA_FAULT="save", MANTA_FAULT_ONCE=once).returncode == -9
    assert run(MANTA_FAULT="save", MANTA_FAULT_ONCE=once).returncode == 0


def test_each_of_several_once(tmp_path: Path) -> None:
    env = {"MANTA_FAULT": "save:step=1;load;save:step=2", "MANTA_FAULT_ONCE": str(tmp_path / "once")}
    assert [run(**env).returncode for _ in range(3)] == [-9, -9, 0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["once-0", "once-2"]
