"""The most memory that a worker has held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm.train import peak_memory
from llm.train.peak_memory import peak_bytes, resident_peak

MIB = 1 << 20
STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"


def test_the_high_water_mark_is_read() -> None:
    assert resident_peak(STATUS) == 2 * MIB
    assert resident_peak("Name:\tpython\n") == 0


def test_a_system_that_says_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "none")
    assert peak_bytes(torch.device("cpu")) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_counts_and_what_was_inherited_does_not() -> None:
    """A process that once held 200 MiB more says so; one that it starts then does not."""
    says = "print(open('/proc/self/status').read(), end='@', flush=True)"
    code = (
        f"import subprocess, sys\n{says}\nheld = bytearray(b'x') * (200 << 20)\ndel held\n{says}\n"
        f"subprocess.run([sys.executable, '-c', {says!r}], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, started = map(resident_peak, done.stdout.split("@")[:3])
    assert after >= before + 190 * MIB
    assert 0 < started < before + 100 * MIB
