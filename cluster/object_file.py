"""An object of a store as a file that is read and sought in, a few megabytes of it in memory at a time."""

from __future__ import annotations

import io

from cluster.object_store import ObjectPath

AHEAD_BYTES = 8 << 20
"""Of one request at most, where an object is read from front to back."""
_FIRST_AHEAD = 256 << 10


class ObjectFile(io.RawIOBase):
    """Opened for reading. FileNotFoundError where there is no such object, PlaceError for what fails.

    Each request asks for more than the one before it while the reader goes straight on, up to `AHEAD_BYTES`;
    after a jump for no more than was asked for, since formats with a table of contents jump about.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._at = 0
        self._held, self._held_at = b"", 0
        self._ahead = _FIRST_AHEAD

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; fewer at the object's end alone."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted:
            start = self._at - self._held_at
            if not 0 <= start < len(self._held):
                self._fetch(wanted)
                start = 0
                if not self._held:  # it has become shorter; who compares its stamp finds it
                    break
            part = self._held[start : start + wanted]
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fetch(self, wanted: int) -> None:
        goes_on = self._at == self._held_at + len(self._held)
        self._ahead = min(AHEAD_BYTES, 2 * self._ahead) if goes_on else _FIRST_AHEAD
        size = min(AHEAD_BYTES, max(wanted, self._ahead if goes_on else 0))
        self._held = self._path.read_range(self._at, size)
        self._held_at = self._at
