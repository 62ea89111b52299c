"""Files in a place: open, list, write, commit. The one module that touches storage for outputs."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, data: bytes, new_folder: bool = True) -> None:
    """Write a file so that it is there whole or not at all: tmp, fsync, rename, fsync of the folder.

    Without `new_folder` the folder must be there: FileNotFoundError where another has removed it.
    """
    path = Path(path)
    if new_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp gives 0600, and other users of shared storage must read
            os.fsync(file.fileno())
        os.rename(tmp, path)
    except BaseException:
        Path(tmp).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def commit_file(tmp: str | Path, path: str | Path) -> None:
    """Give a finished file its final name, durably."""
    with open(tmp, "rb") as file:
        os.fsync(file.fileno())
    os.rename(tmp, path)
    sync_folder(Path(path).parent)


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder durable (a rename alone may be lost with the power)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spare blanks, UTF-8. Equal values give equal bytes.

    A file name that is not UTF-8 comes back as it was (its lone surrogates are written as JSON escapes). NaN
    and infinity are no JSON and raise ValueError: whoever has one decides what it means (null, or a failure).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_json(path: str | Path, value: Any, new_folder: bool = True) -> None:
    """Write canonical JSON whole or not at all."""
    write_bytes(path, to_json(value), new_folder)
