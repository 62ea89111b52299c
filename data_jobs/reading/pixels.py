"""An image file to one document: its pixels, resized as the source asks for; or a counted reject.

The document is a text with one character (U+0000 to U+00FF) for each channel of each pixel.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, read_blocks
from data_jobs.reading.records import HEAD_BYTES, Place, Record, Reject
from data_jobs.reading.source_settings import SourceSettings

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


class _Unreadable(Exception):
    """(reason, detail) of a reject."""


def read_image(
    piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int
) -> Iterator[Record | Reject]:
    """The one image of a file. A file above four times `max_bytes` is not decoded."""
    place = Place(piece.path, piece.start, 1, 0)
    data = b""
    try:
        data = _read(piece, reading, 4 * max_bytes)
        matrix = decode_image(data, source.size, source.channels)
    except _Unreadable as error:
        reason, detail = error.args
        if reason in ("damaged_file", "damaged_image"):
            reading.damage = detail
        yield Reject(reason, detail, place, reading.bytes_read, repr(data[:HEAD_BYTES])[2:-1])
        return
    yield Record(matrix.tobytes().decode("latin-1"), place, reading.bytes_read, {"path": piece.name})


def _read(piece: Piece, reading: Reading, most: int) -> bytes:
    parts: list[bytes] = []
    try:
        for block in read_blocks(piece, reading):  # to its end, for the digest of the file
            if reading.bytes_read <= most:
                parts.append(block)
    except DamagedFile as error:
        raise _Unreadable("damaged_file", str(error)) from None
    if reading.bytes_read > most:
        raise _Unreadable("too_long", f"the file has {reading.bytes_read:,} bytes")
    return b"".join(parts)


def decode_image(data: bytes, size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    """Pixels [height, width, channels] of an image file's bytes: its first frame, upright, over white."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                return _matrix(image, size, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _Unreadable("too_many_pixels", str(error)) from None
    except Exception as error:  # what Pillow's decoders raise over damaged bytes has no common name
        raise _Unreadable("damaged_image", f"{type(error).__name__}: {error}") from None


def _matrix(image: PillowImage, size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would cut values above 255 off
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB" if channels == 3 else "L")
    height, width = size
    if image.size != (width, height):
        image = image.crop(_middle(image.size, (width, height)))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels)


def _middle(given: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest part of this shape in the middle of an image: left, top, right, bottom."""
    width = min(given[0], max(1, round(given[1] * wanted[0] / wanted[1])))
    height = min(given[1], max(1, round(given[0] * wanted[1] / wanted[0])))
    left, top = (given[0] - width) // 2, (given[1] - height) // 2
    return left, top, left + width, top + height
