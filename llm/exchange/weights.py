"""One of our tensors, and the tensors of another library that it is made of.

Shapes in the tables: D width, F inner size, V vocabulary, T context, H heads, G key/value heads, K head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.settings import ModelSettings

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """`ours` is the rows of `theirs`, one after the other; `turned`: a matrix of theirs is [in, out]."""

    ours: str
    shape: Shape
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    """Rows of ours in each of theirs; empty: there is one, with all of them."""
    turned: bool = False
    copies: tuple[str, ...] = ()
    """Further names of the same in their files: written, and not looked at when read."""

    def their_shapes(self) -> dict[str, Shape]:
        """Name to shape."""
        shapes = [(rows, *self.shape[1:]) for rows in self.rows or self.shape[:1]]
        return {name: shape[::-1] if self.turned else shape for name, shape in zip(self.theirs, shapes)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Theirs to ours."""
        parts = [part.T if self.turned else part for part in parts]
        return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).contiguous()

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Ours to theirs."""
        parts = tensor.split(self.rows or self.shape[:1])
        return {
            name: (part.T if self.turned else part).contiguous() for name, part in zip(self.theirs, parts)
        }


def linear(
    ours: str, theirs: str, rows: int, columns: int, bias: bool, turned: bool = False
) -> Iterator[Weight]:
    """A linear map [rows, columns] and its bias."""
    yield Weight(f"{ours}.weight", (rows, columns), (f"{theirs}.weight",), turned=turned)
    if bias:
        yield Weight(f"{ours}.bias", (rows,), (f"{theirs}.bias",))


def norm(ours: str, theirs: str, settings: ModelSettings, width: int | None = None) -> Iterator[Weight]:
    """A normalisation over `width` numbers (default: D)."""
    width = width or settings.width
    yield Weight(f"{ours}.weight", (width,), (f"{theirs}.weight",))
    if settings.norm == "layernorm" and settings.has_bias("norm"):
        yield Weight(f"{ours}.bias", (width,), (f"{theirs}.bias",))


def qkv(ours: str, theirs: tuple[str, str, str], settings: ModelSettings) -> Iterator[Weight]:
    """Our one map to queries, keys and values, of theirs, which are three."""
    q, kv = settings.heads * settings.head_width, settings.groups * settings.head_width
    shapes: dict[str, Shape] = {"weight": (q + 2 * kv, settings.width)}
    if settings.has_bias("qkv"):
        shapes["bias"] = (q + 2 * kv,)
    for kind, shape in shapes.items():
        yield Weight(f"{ours}.{kind}", shape, tuple(f"{name}.{kind}" for name in theirs), (q, kv, kv))
