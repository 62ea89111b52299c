"""A file that is damaged for a while."""

from __future__ import annotations

import random
from pathlib import Path


class damaged:
    """A file with one bit flipped, or cut, for the length of a block."""

    def __init__(self, path: Path, draw: random.Random) -> None:
        self.path, self.good = path, path.read_bytes()
        at = draw.randrange(len(self.good))
        if draw.random() < 0.8:
            self.bad = bytearray(self.good)
            self.bad[at] ^= 1 << draw.randrange(8)
            self.what = f"{path.name}, bit flipped at byte {at}"
        else:
            self.bad = bytearray(self.good[:at])
            self.what = f"{path.name}, cut to {at} bytes"

    def __enter__(self) -> str:
        self.path.write_bytes(self.bad)
        return self.what

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.good)
