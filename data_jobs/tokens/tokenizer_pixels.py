"""Images to token ids and back: a token a pixel, row by row, as in Image GPT (Chen et al. 2020, section 2).

An image comes as a text whose characters U+0000 to U+00FF are the bytes of its pixels (`pixels.py`), channel
by channel, so that it goes through the same stages as any document. The token of a pixel is the number of the
nearest colour of a palette: evenly spaced gray levels, or what k-means finds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import Place, to_json, write_bytes
from data_jobs.hashes import sha256
from data_jobs.reading.palette import Colors, nearest, palette_of
from data_jobs.tokens.tokenizer import PIXELS_FILE, Ids, Tokenizer

_SPECIALS = {"pad": 0, "eos": 1}
_WHITE = 255


class PixelTokenizer(Tokenizer):
    """Images of one size (height, width), and their colours [n, channels]; the first two ids are specials."""

    kind = "pixels"

    def __init__(self, size: tuple[int, int], palette: Colors) -> None:
        self.size, self.palette = size, palette
        self.channels = palette.shape[1]
        self.pixels = size[0] * size[1]
        """Tokens of an image, without its eos."""
        self.specials = dict(_SPECIALS)
        self.vocab_size = len(_SPECIALS) + len(palette)
        self._json = to_json({"size": list(size), "palette": palette.tolist()})
        self.fingerprint = f"{self.kind}:{sha256(self._json)}"
        colors = [bytes(color).decode("latin-1").encode() for color in palette.tolist()]
        self._bytes = [b"" for _ in _SPECIALS] + colors
        self.piece_lengths = np.array([len(data) for data in self._bytes], np.int64)
        self.lossless = self.channels == 1 and len(palette) == 256
        # Each gray value's token once, instead of a distance a pixel.
        self._gray = self._tokens(np.arange(256, dtype=np.uint8)[:, None]) if self.channels == 1 else None

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """See `Tokenizer`. UserError for a text that is no image."""
        return [self._encode(self._values(text)) for text in texts]

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[Ids, npt.NDArray[np.int64]]]:
        """See `Tokenizer`; a colour that is not in the palette ends where its pixel does."""
        values = [self._values(text) for text in texts]
        return [
            (self._encode(some), np.cumsum(1 + (some >= 0x80))[self.channels - 1 :: self.channels])
            for some in values
        ]

    def image(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """The image [height, width, channels] of so many pixels; those that are missing are white."""
        tokens = np.asarray(ids, np.int64)
        tokens = tokens[(tokens >= len(_SPECIALS)) & (tokens < self.vocab_size)][: self.pixels]
        matrix = np.full((self.pixels, self.channels), _WHITE, np.uint8)
        matrix[: len(tokens)] = self.palette[tokens - len(_SPECIALS)]
        return matrix.reshape(*self.size, self.channels)

    def piece_bytes(self, token: int) -> bytes:
        """See `Tokenizer`."""
        return self._bytes[token]

    def is_byte(self, token: int) -> bool:
        """See `Tokenizer`."""
        return False

    def save(self, folder: str | Place) -> None:
        """See `Tokenizer`."""
        write_bytes(places.at(folder) / PIXELS_FILE, self._json)

    def _values(self, text: str) -> npt.NDArray[np.uint8]:
        try:
            values = np.frombuffer(text.encode("latin-1"), np.uint8)
        except UnicodeEncodeError:
            values = np.zeros(1, np.uint8)
        if len(values) % (self.channels * self.pixels):
            raise UserError(
                f"a text of {len(text)} characters is no image of {self.size[0]} x {self.size[1]} pixels: "
                "this tokenizer is for corpora of images"
            )
        return values

    def _encode(self, values: npt.NDArray[np.uint8]) -> Ids:
        if self._gray is not None:
            return self._gray[values]
        return self._tokens(values.reshape(-1, self.channels))

    def _tokens(self, colors: Colors) -> Ids:
        return (nearest(colors, self.palette) + len(_SPECIALS)).astype(np.uint32)

    def __reduce__(self) -> tuple[type[PixelTokenizer], tuple[tuple[int, int], Colors]]:
        return PixelTokenizer, (self.size, self.palette)


def pixel_tokenizer(
    size: tuple[int, int], channels: int, colors: int, texts: Sequence[str] = (), seed: int = 0
) -> PixelTokenizer:
    """Of so many gray levels for one channel; for three, of a palette of the images that `texts` hold."""
    if channels == 1:
        levels = (255 * np.arange(colors) + (colors - 1) // 2) // (colors - 1)
        return PixelTokenizer(size, levels.astype(np.uint8)[:, None])
    parts = [np.frombuffer(text.encode("latin-1"), np.uint8) for text in texts]
    # The last image of a sample is cut anywhere.
    pixels = [part[: len(part) // channels * channels].reshape(-1, channels) for part in parts]
    return PixelTokenizer(size, palette_of(np.concatenate(pixels), colors, seed))


def read_pixels(path: Path) -> PixelTokenizer:
    """The tokenizer of a file. RunError where it is damaged."""
    try:
        value = json.loads(path.read_bytes())
        height, width = value["size"]
        palette = np.array(value["palette"], np.uint8)
        if palette.ndim != 2 or not len(palette):
            raise ValueError(f"a palette of shape {palette.shape}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(f"{path}: not a tokenizer of pixels, or a damaged one: {error}") from None
    return PixelTokenizer((height, width), palette)
