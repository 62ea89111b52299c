"""Arithmetic of MinHash: permutations, band keys, what a signature says of two sets, what banding finds.

A. Broder, On the resemblance and containment of documents, 1997; J. Leskovec, A. Rajaraman, J. Ullman,
Mining of Massive Datasets, ch. 3; P. Li, A. C. König, b-Bit Minwise Hashing, 2010 (b = 8).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import h64, mix_array

Array = npt.NDArray[Any]
_CHANCE = 1 / 256
"""How often two kept bytes agree whose minima differ."""


def permutations(count: int) -> tuple[Array, Array]:
    """(a, b) of x -> a * x + b modulo 2^32, a odd: fixed, so that signatures of all tasks compare."""
    draws = np.array([h64("minhash", i) for i in range(count)], np.uint64)
    return (draws >> np.uint64(32)).astype(np.uint32) | np.uint32(1), draws.astype(np.uint32)


def band_keys(signatures: Array, rows: int, salt: int) -> Array:
    """[documents, bands] 64-bit keys: equal where all bytes of the band are. Other salts never meet."""
    documents, count = signatures.shape
    bands = count // rows
    parts = signatures.reshape(documents, bands, rows)
    of_band = np.array([h64("band", salt, band) for band in range(bands)], np.uint64)
    keys = of_band[None, :].repeat(documents, axis=0)
    for at in range(0, rows, 8):
        words = np.zeros((documents, bands, 8), np.uint8)
        words[:, :, : min(8, rows - at)] = parts[:, :, at : at + 8]
        keys = mix_array(keys ^ words.view("<u8")[:, :, 0])
    return keys


def similarity(one: Array, other: Array) -> Array:
    """Estimate of the Jaccard similarity out of two signatures, or two rows of them."""
    agreement = (one == other).mean(axis=-1)
    return (agreement - _CHANCE) / (1 - _CHANCE)


def deviation(jaccard: float, count: int) -> float:
    """Standard deviation of `similarity` with `count` minima (Li and König 2010, for large sets)."""
    chance = jaccard + (1 - jaccard) * _CHANCE
    return math.sqrt(chance * (1 - chance) / count) / (1 - _CHANCE)


def least_agreement(threshold: float, count: int) -> int:
    """Places at which two signatures must agree to be worth a comparison of the texts.

    Four standard deviations below what pairs at the threshold have: of those one in 30,000 is lost.
    """
    low = max(0.0, threshold - 4 * deviation(threshold, count))
    return math.ceil(count * (low + (1 - low) * _CHANCE))


def found_share(jaccard: float, bands: int, rows: int) -> float:
    """The S-curve: share of pairs of a similarity that agree in a band (Leskovec et al., ch. 3.4.2)."""
    return 1 - (1 - jaccard**rows) ** bands


def curve(bands: int, rows: int) -> dict[str, float]:
    """The S-curve at tenths and twentieths, for a report."""
    return {f"{s / 20:.2f}": round(found_share(s / 20, bands, rows), 6) for s in range(8, 21)}
