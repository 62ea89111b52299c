"""Files in a place: open, list, write, commit. The one module that touches storage for outputs.

A place is a path of this machine (its own disk, or one that machines share) or the URI of an object store,
`s3://bucket/name`. `at` turns text into one; both kinds answer to the same few names of pathlib. A file is
committed by a rename here, by its one PUT there: nothing that is read relies on a rename of folders.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard, TypeVar, cast

from cluster.object_file import ObjectFile
from cluster.object_store import READ_BYTES, ObjectPath, PlaceError, Sink, hasty, parse

Place: TypeAlias = Path | ObjectPath
__all__ = ["ObjectPath", "Place", "PlaceError", "Sink", "hasty"]
T = TypeVar("T")


def at(path: str | Place) -> Place:
    """The place that a text names. UserError for a URI that is none of ours."""
    if isinstance(path, str):
        return parse(path) or Path(path)
    return path


def absolute(path: str | Place) -> Place:
    """The same place, wherever a process stands that is told of it."""
    return at(path).absolute()


def is_remote(path: str | Place) -> TypeGuard[ObjectPath]:
    """Whether it lies in an object store. (Of a text: whether it would.)"""
    return isinstance(at(path), ObjectPath)


def write_bytes(path: str | Place, data: bytes, new_folder: bool = True) -> None:
    """Write a file so that it is there whole or not at all: tmp, fsync, rename, fsync of the folder.

    Without `new_folder` the folder must be there: FileNotFoundError where another has removed it. In an
    object store one PUT does it, and there is no folder that could be missing.
    """
    path = at(path)
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
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


def create(path: Place, data: bytes) -> bool:
    """Write a file that is not there, with all it holds; False where it is. Of several at once one can."""
    if isinstance(path, ObjectPath):
        return path.create(data)
    handle, tmp = _new_file_beside(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.link(tmp, path)
    except FileExistsError:
        if os.stat(tmp).st_nlink != 2:  # on NFS it is said, too, of a link whose first answer was lost
            return False
    finally:
        os.unlink(tmp)
    sync_folder(path.parent)
    return True


def _new_file_beside(path: Path, tries: int = 3) -> tuple[int, str]:
    """A temporary file; the folder is made anew where another removes it, empty, at the same moment."""
    for _ in range(tries - 1):
        with contextlib.suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(dir=path.parent, suffix=".tmp")


def write_with(path: Place, body: Callable[[Sink], T], size: int) -> T:
    """A large file from what `body` writes on the way, about `size` bytes; there when all went well.

    In an object store `body` may be called again after a fault.
    """
    if isinstance(path, ObjectPath):
        return path.write_with(body, size)
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        with open(tmp, "wb") as file:
            made = body(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    os.rename(tmp, path)
    sync_folder(path.parent)
    return made


def open_read(path: Place) -> BinaryIO:
    """A file to be read from its beginning, as a context manager; an object is read whole."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else open(path, "rb")


def open_seekable(path: Place) -> BinaryIO:
    """A file to be read and sought in, as a context manager; of an object only what is read is fetched."""
    return cast(BinaryIO, ObjectFile(path)) if isinstance(path, ObjectPath) else open(path, "rb")


def read_range(path: Place, start: int, length: int) -> bytes:
    """Bytes [start, start + length) of a file, fewer where it ends before."""
    if isinstance(path, ObjectPath):
        return path.read_range(start, length)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


def read_tail(path: Place, length: int) -> bytes:
    """The last bytes of a file, all of a shorter one."""
    if isinstance(path, ObjectPath):
        return path.read_tail(length)
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - length))
        return file.read()


def size_of(folder: Place) -> Callable[[str], int | None]:
    """Asks how large a file of a folder is (None: not there): in an object store out of one listing."""
    if isinstance(folder, ObjectPath):
        return folder.sizes().get

    def size(name: str) -> int | None:
        try:  # by its name, since listings are cached on NFS
            return (folder / name).stat().st_size
        except FileNotFoundError:
            return None

    return size


def delete_tree(folder: Place) -> None:
    """All that is there, without a word where nothing is."""
    if isinstance(folder, ObjectPath):
        with contextlib.suppress(PlaceError):
            folder.delete_all()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def move(path: Place, to: Place) -> None:
    """A file or folder to another name in the same place: renamed, or copied and deleted by the store."""
    if isinstance(path, ObjectPath) and isinstance(to, ObjectPath):
        path.move(to)
    else:
        os.rename(str(path), str(to))


def fetch_file(path: Place, to: Path, size: int) -> None:
    """A copy of `size` bytes on this machine, there when it is whole."""
    tmp = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(tmp, "wb") as file:
            for start in range(0, size, READ_BYTES):
                file.write(read_range(path, start, min(READ_BYTES, size - start)))
            if file.tell() != size:
                raise OSError(errno.EIO, f"{file.tell()} of {size} bytes came", str(path))
        os.rename(tmp, to)  # not synced: it can be fetched again
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def fetch_folder(folder: ObjectPath, to: Path) -> None:
    """A small folder with all below it."""
    for name, size in folder.sizes().items():
        fetch_file(folder / name, to / name, size)


def send_folder(folder: Path, to: ObjectPath, last: str) -> None:
    """A folder of this machine with all below it, by name; the file that makes it what it is comes last."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        (to / name).write_file(folder / name)


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


def write_json(path: str | Place, value: Any, new_folder: bool = True) -> None:
    """Write canonical JSON whole or not at all."""
    write_bytes(path, to_json(value), new_folder)
