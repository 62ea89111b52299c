"""A constant that changes in another file reaches a kernel that was cached before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNEL = """
from numba import njit
from constants import SIZE
from data_jobs.filters.kernel_cache import fingerprint, renew

@njit("int64()", cache=True)
def inner():
    return SIZE

@njit("int64()", cache=True)
def outer():
    return 10 * inner()

NOW = fingerprint(SIZE)

@njit("int64()", cache=True)
def compiled_for():
    return NOW

if GUARDED:
    renew(compiled_for, NOW, [inner, outer])
print(outer(), sum(outer.stats.cache_hits.values()))
"""


def run(folder: Path, size: int) -> str:
    (folder / "constants.py").write_text(f"SIZE = {size}  # {'x' * size}\n")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import kernel"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_changed_constant_is_compiled_in(tmp_path: Path) -> None:
    for guarded, after in ((False, "10 1"), (True, "20 1")):
        folder = tmp_path / str(guarded)
        folder.mkdir()
        (folder / "kernel.py").write_text(KERNEL.replace("GUARDED", str(guarded)))
        assert run(folder, 1) == "10 0"
        assert run(folder, 1) == "10 1"
        assert run(folder, 2) == after  # the first one is why the guard is there
    run(tmp_path / "True", 2)  # numba files a compilation that was asked for by another key
    assert run(tmp_path / "True", 2) == "20 1"
