"""What changes in another file reaches a kernel that was cached before, and who compiles says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from data_jobs.build_kernels import KERNELS

ROOT = Path(__file__).parents[2]
KERNEL = """
from numba import njit
from constants import SIZE
from data_jobs.kernel_cache import fingerprint, renew

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


CALLED = """
from numba import njit

@njit(nogil=True, forceinline=True)
def called():
    return SIZE
"""
CALLER = """
from numba import njit
from called import called
from data_jobs.kernel_cache import fingerprint, renew, source_of

@njit("int64()", cache=True)
def outer():
    return 10 * called()

NOW = fingerprint(source_of(called))

@njit("int64()", cache=True)
def compiled_for():
    return NOW

renew(compiled_for, NOW, [outer])
print(outer())
"""


def test_a_changed_kernel_of_another_file_is_compiled_in_and_said(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    words = [sys.executable, "-c", "import caller"]
    for size, is_compiled in ((1, True), (1, False), (22, True)):
        (tmp_path / "called.py").write_text(CALLED.replace("SIZE", str(size)))
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"{10 * size}\n"
        assert done.stderr == "compiling kernels, once after each change of theirs ...\n" * is_compiled


def test_the_set_up_compiles_all_kernels() -> None:
    """And each of their files says when it compiles, and is renewed where it calls one of another file."""
    own = {"data_jobs.kernel_cache", "data_jobs.utf8_kernel"}
    found = set()
    for file in sorted((ROOT / "data_jobs").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if re.search(r"^from numba ", text, re.MULTILINE) and name not in own:
            found.add(name)
            assert "data_jobs.kernel_cache" in text, f"{name} compiles without a word"
            assert ("code_at(" in text) == ("source_of(code_at)" in text), f"{name} is not renewed"
    assert found == set(KERNELS)
