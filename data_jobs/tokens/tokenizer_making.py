"""The tokenizer of a corpus: one that is there, or one made of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.errors import UserError
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.settings import CorpusSettings
from data_jobs.tokens.sample_shares import weighted_texts
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer, pixel_tokenizer
from data_jobs.tokens.tokenizer_training import train_tokenizer


def make_tokenizer(settings: CorpusSettings, runs: Sequence[tuple[int, dict[str, Any]]]) -> Tokenizer:
    """`runs`: (number of the source, run of its documents). UserError where what is given does not fit."""
    wanted = settings.tokenizer
    images = [source for source in settings.sources if source.format == "images"]
    if wanted.path is not None:
        tokenizer = load_tokenizer(wanted.path)
        _check_fits(tokenizer, wanted.path, images)
        return tokenizer
    if images and images[0].channels == 1:
        return pixel_tokenizer(images[0].size, 1, wanted.levels)
    texts = weighted_texts(settings.sources, runs, wanted.sample_bytes)
    if images:
        return pixel_tokenizer(images[0].size, 3, wanted.colors, texts, settings.seed)
    return train_tokenizer(texts, wanted)


def _check_fits(tokenizer: Tokenizer, path: str, images: Sequence[SourceSettings]) -> None:
    if not images:
        if isinstance(tokenizer, PixelTokenizer):
            raise UserError(
                f"corpus.tokenizer.path: {path} is a tokenizer of pixels, and no source has format images"
            )
        return
    if not isinstance(tokenizer, PixelTokenizer):
        raise UserError(
            f"corpus.tokenizer.path: {path} is a tokenizer of texts ({tokenizer.kind}), and the sources have "
            "format images: leave it out"
        )
    asked, there = (images[0].size, images[0].channels), (tokenizer.size, tokenizer.channels)
    if asked != there:
        raise UserError(
            f"corpus.tokenizer.path: {path} is for images of {there[0][0]} x {there[0][1]} pixels with "
            f"{there[1]} channels; source '{images[0].name}' has size {list(asked[0])}, channels {asked[1]}"
        )
