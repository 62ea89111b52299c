"""The palette of a set of pixels: k-means over their colours, as in Image GPT (Chen et al. 2020, section 2).

Centres are whole numbers after each round. So all distances are whole numbers below 2^24, which float32 holds
exactly, and the palette is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import h64, mix_array

SAMPLE = 1 << 17
"""Pixels that are looked at, at most."""
_ROUNDS = 30
_AT_ONCE = 1 << 13

Colors = npt.NDArray[np.uint8]


def palette_of(pixels: Colors, colors: int, seed: int) -> Colors:
    """At most so many colours [n, channels], in order, for pixels [N, channels]; all where they are fewer."""
    kinds, counts = np.unique(_some_of(pixels, seed), axis=0, return_counts=True)
    if len(kinds) <= colors:
        return kinds
    points, weights = kinds.astype(np.float32), counts.astype(np.float64)
    centers = _first_centers(points, weights, colors, seed)
    for _ in range(_ROUNDS):
        belongs = nearest(points, centers)
        sizes = np.bincount(belongs, weights, minlength=len(centers))
        sums = np.stack(
            [np.bincount(belongs, weights * column, minlength=len(centers)) for column in points.T], axis=1
        )
        moved = centers.copy()
        moved[sizes > 0] = np.rint(sums[sizes > 0] / sizes[sizes > 0, None])
        if np.array_equal(moved, centers):
            break
        centers = moved
    return np.unique(centers.astype(np.uint8), axis=0)


def nearest(points: npt.NDArray[Any], palette: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number of the nearest colour of each point, the first of equals; squared distance."""
    colors = palette.astype(np.float32)
    squares = (colors * colors).sum(1)
    found = [
        (squares - 2 * (part.astype(np.float32) @ colors.T)).argmin(1)
        for part in (points[at : at + _AT_ONCE] for at in range(0, len(points), _AT_ONCE))
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _some_of(pixels: Colors, seed: int) -> Colors:
    """A sample of the pixels: those with the smallest hashes of their numbers."""
    if len(pixels) <= SAMPLE:
        return pixels
    order = mix_array(np.arange(len(pixels), dtype=np.uint64) ^ np.uint64(h64(seed, "palette sample")))
    return pixels[np.sort(np.argpartition(order, SAMPLE)[:SAMPLE])]


def _first_centers(
    points: npt.NDArray[np.float32], weights: npt.NDArray[np.float64], colors: int, seed: int
) -> npt.NDArray[np.float32]:
    """k-means++ (Arthur and Vassilvitskii 2007): each is drawn by its squared distance to those before."""
    chosen: list[int] = []
    distance = np.ones(len(points))
    for number in range(colors):
        sums = np.cumsum(weights * distance)
        draw = h64(seed, "palette", number) / 2.0**64 * sums[-1]
        chosen.append(min(int(np.searchsorted(sums, draw, side="right")), len(points) - 1))
        squared = ((points - points[chosen[-1]]) ** 2).sum(1, dtype=np.float64)
        distance = squared if number == 0 else np.minimum(distance, squared)
    return points[chosen]
