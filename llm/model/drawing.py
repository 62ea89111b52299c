"""A model of pixels draws: ids to images, and those to PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import UserError
from cluster.places import Place
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.model.generation import generate
from llm.model.gpt import GPT
from llm.model.sampling import Sampling

Image = npt.NDArray[np.uint8]
"""[height, width, channels]."""

_ROWS = 16  # images that are drawn at once
_GAP, _GRAY = 2, 128  # pixels between the images of a sheet, and how light they are


def draw(
    model: GPT, tokenizer: PixelTokenizer, count: int, sampling: Sampling, context: int | None = None
) -> Iterator[Image]:
    """So many images, each pixel of each drawn after those before it; image n does not hang on the others."""
    never = {*tokenizer.specials.values(), *range(tokenizer.vocab_size, model.vocab_size)}
    sampling = replace(sampling, tokens=tokenizer.pixels, stop=None, forbidden=tuple(sorted(never)))
    for first in range(0, count, _ROWS):
        rows: list[list[int]] = [[] for _ in range(min(_ROWS, count - first))]
        starts = [[tokenizer.eos_id] for _ in rows]
        for row, token in generate(model, starts, sampling, context, first=first):
            rows[row].append(token)
        yield from map(tokenizer.image, rows)


def sheet(images: Sequence[Image]) -> Image:
    """All images on one, in rows as long as there are rows."""
    columns = int(np.ceil(np.sqrt(len(images))))
    height, width, channels = images[0].shape
    lines = -(-len(images) // columns)
    shape = (lines * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    whole = np.full(shape, _GRAY, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        whole[top : top + height, left : left + width] = image
    return whole


def write_images(images: Sequence[Image], out: str | Place) -> list[Place]:
    """Write the sheet to `out` if that ends in .png; else a file for each image, then sheet.png, in a folder.

    Returns what was written, the sheet last.
    """
    place = places.at(out)
    if place.name.lower().endswith(".png"):
        files = [(place, sheet(images))]
    else:
        files = [(place / f"{number:04d}.png", image) for number, image in enumerate(images)]
        files.append((place / "sheet.png", sheet(images)))
    for path, image in files:
        places.write_bytes(path, png_bytes(image))
    return [path for path, _ in files]


def png_bytes(image: Image) -> bytes:
    """The image as a PNG file. UserError where Pillow is missing."""
    import io

    try:
        from PIL import Image as pillow
    except ImportError:
        raise UserError("writing PNG files needs Pillow: pip install pillow") from None
    file = io.BytesIO()
    pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "PNG")
    return file.getvalue()
