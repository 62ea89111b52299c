"""Image files to pixels: every mode, every kind of damage."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_jobs.reading.pixels import read_image
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Record, Reject
from data_jobs.reading.source_settings import SourceSettings
from tests.data_jobs.drawn import shape_of

GRAY = shape_of(4, 8)
COLOR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def read(
    path: Path, size: tuple[int, int] = (8, 8), channels: int = 3, most: int = 1 << 20
) -> tuple[Record | Reject, Reading]:
    source = SourceSettings.model_validate(
        {"name": "i", "path": str(path), "format": "images", "size": size, "channels": channels}
    )
    reading = Reading()
    [item] = read_image(Piece(str(path), name="a/b.png"), reading, source, most)
    assert reading.bytes_read == item.raw_bytes
    return item, reading


def pixels(path: Path, size: tuple[int, int] = (8, 8), channels: int = 3) -> npt.NDArray[np.uint8]:
    item, _ = read(path, size, channels)
    assert isinstance(item, Record), item
    assert item.metadata == {"path": "a/b.png"}
    return np.frombuffer(item.text.encode("latin-1"), np.uint8).reshape(*size, channels)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_pixels_stay_as_they_are(tmp_path: Path) -> None:
    gray = saved(tmp_path / "g.png", Image.fromarray(GRAY[:, :, 0]))
    assert np.array_equal(pixels(gray, channels=1), GRAY)
    assert np.array_equal(pixels(gray), np.repeat(GRAY, 3, axis=2))
    color = saved(tmp_path / "c.bmp", Image.fromarray(COLOR))
    assert np.array_equal(pixels(color), COLOR)
    luma = COLOR.astype(int) @ [19595, 38470, 7471] + 0x8000 >> 16  # ITU-R 601-2
    assert np.array_equal(pixels(color, channels=1)[:, :, 0], luma)
    packed = tmp_path / "c.bmp.gz"
    packed.write_bytes(gzip.compress(color.read_bytes()))
    assert np.array_equal(pixels(packed), COLOR)


def test_modes(tmp_path: Path) -> None:
    black_white = Image.fromarray(GRAY[:, :, 0] > 100)
    assert set(pixels(saved(tmp_path / "1.png", black_white), channels=1).ravel()) == {0, 255}
    palette = Image.fromarray(COLOR).quantize(16)
    assert np.array_equal(pixels(saved(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB")))
    deep = Image.fromarray(GRAY[:, :, 0].astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert np.array_equal(pixels(saved(tmp_path / "16.png", deep), channels=1), GRAY)
    cmyk = saved(tmp_path / "k.tif", Image.new("CMYK", (8, 8), (255, 0, 0, 0)))
    assert pixels(cmyk)[0, 0].tolist() == [0, 255, 255]


def test_transparent_is_white(tmp_path: Path) -> None:
    alpha = np.zeros((8, 8, 1), np.uint8)
    alpha[:4] = 255
    image = pixels(saved(tmp_path / "a.png", Image.fromarray(np.dstack([COLOR, alpha]))))
    assert np.array_equal(image[:4], COLOR[:4]) and (image[4:] == 255).all()
    both = Image.fromarray(np.dstack([GRAY, alpha]), "LA")
    assert (pixels(saved(tmp_path / "la.png", both), channels=1)[4:] == 255).all()
    clear = Image.fromarray(np.zeros((8, 8), np.uint8), "P")
    clear.putpalette([10, 20, 30])
    assert (pixels(saved(tmp_path / "p.png", clear, transparency=0)) == 255).all()


def test_the_first_frame_upright(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), light) for light in (10, 200)]
    gif = saved(tmp_path / "m.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (pixels(gif, channels=1) == 10).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees to the right
    turned = saved(tmp_path / "t.png", Image.fromarray(COLOR), exif=exif)
    assert np.array_equal(pixels(turned), np.rot90(COLOR, -1))


def test_the_middle_in_the_size_that_is_asked(tmp_path: Path) -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    file = saved(tmp_path / "w.png", Image.fromarray(wide))
    assert (pixels(file, (10, 10)) == 200).all()
    assert (pixels(file, (5, 5)) == 200).all()
    assert pixels(file, (2, 8)).shape == (2, 8, 3)
    assert (pixels(file, (20, 80))[:, :20] == 0).all()


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501) * 20_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOR).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged_image"),
        (b"no image at all", "damaged_image"),
        (png()[:60], "damaged_image"),
        (png()[:-30], "damaged_image"),
        (png()[:40] + b"\xff\x00" + png()[42:], "damaged_image"),
        (gzip.compress(png())[:-20], "damaged_file"),
        (bomb(), "too_many_pixels"),
        (png() + bytes(90_000), "too_long"),
    ],
)
def test_what_cannot_be_read_is_a_reject_with_its_file(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    item, reading = read(path, most=20_000)
    assert isinstance(item, Reject)
    assert (item.reason, item.place.file) == (reason, str(path)) and item.detail
    assert bool(reading.damage) == reason.startswith("damaged")


def test_pixels_of_unknown_range(tmp_path: Path) -> None:
    item, _ = read(saved(tmp_path / "f.tif", Image.fromarray(np.zeros((8, 8), np.float32))))
    assert isinstance(item, Reject) and "mode F" in item.detail
