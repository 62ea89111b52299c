"""The points at which tests kill a process: exactly there, and once."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.fault_points import fault_factor

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


@pytest.mark.parametrize(
    ("fault", "factors"),
    [
        ("loss:step=1:1000", [1, 1000, 1]),
        ("loss:sample=5:-inf", [1, 1, -math.inf]),
        ("loss:sample=5:step=1:2", [1, 1, 1]),
        ("loss:sample=1:2;loss:step=2:3", [2, 1, 3]),
        ("gradient:step=1:2", [1, 1, 1]),
        ("", [1, 1, 1]),
    ],
)
def test_it_spoils_a_number_where_all_of_it_matches(
    fault: str, factors: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANTA_FAULT", fault)
    found = [fault_factor("loss", step=i, sample=np.arange(2 * i, 2 * i + 2)) for i in range(3)]
    assert found == factors
