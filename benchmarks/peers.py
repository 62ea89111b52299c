"""Environments of peers: made once, beside this repository's own, for benchmarks alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.errors import RunError
from cluster.recipe import ROOT

FOLDER = ROOT / ".peers"
DATATROVE = (
    "datatrove==0.10.1", "spacy==3.8.18", "nltk==3.10.4", "tokenizers==0.23.3", "xxhash<4", "orjson", "ftfy",
    "regex",
)  # fmt: skip


def datatrove_python(say: Callable[[str], None]) -> Path:
    """The Python of an environment that has datatrove and what its English steps need."""
    return _python("datatrove-0.10.1", DATATROVE, say)


def _python(name: str, packages: tuple[str, ...], say: Callable[[str], None]) -> Path:
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        say(f"installing {packages[0]} into {folder}")
        _call([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)])
        _call([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *packages])
        done.touch()
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
