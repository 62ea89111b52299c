"""Copies of remote files on this machine: bounded, and shared by its processes.

A file is known by a name that says what it holds (a digest is in it), so that a copy is never stale. Whoever
uses a copy has a shared lock on it; what nobody has locked may go, the longest unused first. Locks end with
their process, so nothing is left to be cleared up after a kill.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import UserError
from cluster.object_store import READ_BYTES, ObjectPath, PlaceError

_GUARD = ".lock"
_PART = ".part"


class Cache:
    """A folder with copies. Each object keeps what it fetched until `release`, or until its process ends."""

    def __init__(self, folder: str | Path | None = None, most: int | None = None) -> None:
        """`most`: bytes of all copies (None: half of what the disk has free without them)."""
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self.folder = Path(folder or f"{home}/manta").expanduser().absolute()
        self._copies = self.folder / "copies"  # nothing else is removed
        self._given = self._most = most
        self._held: dict[str, int] = {}

    @property
    def most(self) -> int:
        if self._most is None:
            there = next(place for place in (self.folder, *self.folder.parents) if place.exists())
            used = sum(stat.st_size for _, stat in self._files())
            self._most = (shutil.disk_usage(there).free + used) // 2
        return self._most

    @property
    def arguments(self) -> tuple[str, int | None]:
        """Of such a cache in another process, which may have another disk."""
        return str(self.folder), self._given

    def copy_of(self, path: ObjectPath, name: str, size: int, start: int = 0) -> Path:
        """The copy of a file, or of the `size` bytes from `start` on, fetched where it is not there yet.

        UserError where there is no room.
        """
        copy = self.fetch(path, name, size, start=start)
        assert copy is not None
        return copy

    def fetch(self, path: ObjectPath, name: str, size: int, wait: bool = True, start: int = 0) -> Path | None:
        """See `copy_of`. Another process may be fetching it: without `wait`, None says so."""
        copy = self._copies / name
        if name in self._held:
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}{_PART}")
        while True:
            if self._hold(name):
                return copy
            with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    return None
                if copy.exists() or not _is_at(file.fileno(), part):
                    continue  # another has fetched it, or given up
                try:
                    file.truncate(0)
                    self._make_room(path, file.fileno(), size)
                    for at in range(0, size, READ_BYTES):
                        data = path.read_range(start + at, min(READ_BYTES, size - at))
                        file.write(data)
                        if len(data) != min(READ_BYTES, size - at):
                            raise PlaceError(str(path), f"ends before byte {start + size:,}: it was changed")
                    file.flush()
                    os.rename(part, copy)
                except BaseException as error:
                    part.unlink(missing_ok=True)
                    if isinstance(error, FileNotFoundError):
                        raise PlaceError(str(path), "is gone; it was there a moment ago") from None
                    if isinstance(error, OSError) and not isinstance(error, PlaceError):
                        raise PlaceError(
                            str(copy), f"cannot be written ({error.strerror}); set cluster.cache_dir"
                        ) from None
                    raise

    def release(self, name: str) -> None:
        """This process needs the copy no longer."""
        with contextlib.suppress(KeyError):
            os.close(self._held.pop(name))

    def discard(self, name: str) -> None:
        """The copy is damaged: whoever needs it next fetches it anew."""
        (self._copies / name).unlink(missing_ok=True)
        self.release(name)

    def _hold(self, name: str) -> bool:
        copy = self._copies / name
        try:
            handle = os.open(copy, os.O_RDONLY)
        except FileNotFoundError:
            return False
        fcntl.flock(handle, fcntl.LOCK_SH)
        if not _is_at(handle, copy):  # it was removed meanwhile
            os.close(handle)
            return False
        with contextlib.suppress(OSError):
            os.utime(copy)
        self._held[name] = handle
        return True

    def _make_room(self, path: ObjectPath, part: int, size: int) -> None:
        """Set `size` bytes apart for a file; copies that nobody uses go where that needs room."""
        with open(os.open(self._copies / _GUARD, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            # What is in use stands in the guard, at least so much: to look at each of many files takes long.
            said = guard.read()
            used = int(said) if len(said) == 20 else self.most
            if used + size > self.most:
                used = self._remove_for(path, size)
            os.truncate(part, size)
            guard.seek(0)
            guard.write(f"{used + size:020}".encode())

    def _remove_for(self, path: ObjectPath, size: int) -> int:
        """Remove what nobody uses; returns the bytes that are left."""
        slack = self.most // 20 if size * 1000 < self.most else 0  # so that small ones do not come each time
        files = sorted(self._files(), key=lambda found: found[1].st_mtime_ns)
        used = sum(stat.st_size for _, stat in files)
        for file, stat in files:
            if used + size + slack <= self.most:
                break
            if _remove_unused(file):
                used -= stat.st_size
        if used + size > self.most:
            raise UserError(
                f"{path}: its {size:,} bytes do not fit into {self.folder}, where {used:,} of "
                f"{self.most:,} bytes are in use: raise cluster.cache_bytes, or set cluster.cache_dir to "
                "a larger disk"
            )
        return used

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for file in self._copies.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if file.is_file() and file.name != _GUARD:
                    yield file, file.stat()


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_unused(file: Path) -> bool:
    """Remove a copy, or what a dead process left half fetched; False where somebody uses it."""
    try:
        handle = os.open(file, os.O_RDWR)  # NFS locks a file for one alone only where it is open for writing
    except FileNotFoundError:
        return True
    except PermissionError:  # another user's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
