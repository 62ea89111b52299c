"""How much memory there is: the machine's, and a container's where that is less."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.host_memory import memory_bytes


def test_without_a_limit_it_is_the_machines() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) * 1024
    assert memory_bytes(limits=()) == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(("text", "limit"), [("1073741824\n", 2**30), ("max\n", None), (str(2**63), None)])
def test_a_container_says_less_or_nothing(tmp_path: Path, text: str, limit: int | None) -> None:
    file = tmp_path / "memory.max"
    file.write_text(text)
    assert memory_bytes((tmp_path / "missing", file)) == (limit or memory_bytes(()))
