"""Small drawn images for tests: digits would need a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def shape_of(number: int, side: int = 8, channels: int = 1) -> npt.NDArray[np.uint8]:
    """A frame, a cross or a bar on dark, [side, side, channels]: of few kinds, a little different each."""
    draw = np.random.default_rng(number)
    image = np.full((side, side, channels), 16, np.uint8)
    light = draw.integers(200, 256, channels, dtype=np.uint8)
    at = int(draw.integers(1, side - 1))
    match number % 3:
        case 0:
            image[1:-1, [1, -2]] = light
            image[[1, -2], 1:-1] = light
        case 1:
            image[at] = light
            image[:, at] = light
        case _:
            image[:, at:] = light
    return image


def write_shapes(folder: Path, count: int, side: int = 8, channels: int = 1) -> list[npt.NDArray[np.uint8]]:
    """PNG files of so many shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [shape_of(number, side, channels) for number in range(count)]
    for number, image in enumerate(shapes):
        Image.fromarray(image[:, :, 0] if channels == 1 else image).save(folder / f"{number:03d}.png")
    return shapes
