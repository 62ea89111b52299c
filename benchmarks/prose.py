"""English prose to measure the data jobs on."""

from __future__ import annotations

import ast
import gzip
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ground import Ground
from cluster.errors import UserError

CHARACTERS = 4000  # of a document at most


def prose(ground: Ground) -> list[str]:
    """Documents of up to CHARACTERS: of the JSON lines in the folder that was given, those that are mostly
    ASCII; else what the standard library says of itself.
    """
    whole = list(_given(ground.text) if ground.text else _docstrings())
    texts = [text[at : at + CHARACTERS] for text in whole for at in range(0, len(text), CHARACTERS)]
    if not texts:
        raise UserError(f"--text {ground.text}: no English text in .jsonl or .jsonl.gz files")
    return texts[:200] if ground.quick else texts


def _given(folder: Path) -> Iterator[str]:
    paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]) if folder.is_dir() else [folder]
    for path in paths:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for line in file:
                text = json.loads(line)["text"]
                if sum(letter.isascii() for letter in text) > 0.9 * len(text):
                    yield text


def _docstrings() -> Iterator[str]:
    """One document a module: its docstrings."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "dist-packages"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n\n".join(filter(None, found))
        if len(text) > 500:
            yield text + "\n"
