"""This worker among the others: rank, device, and the few sums that they share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """`rank` of `world` workers. With world 1 no process group is needed."""

    rank: int
    world: int
    device: torch.device

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over the workers, in fp64."""
        if self.world == 1:
            return values
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: list[float]) -> list[float]:
        """Element-wise maximum over the workers, in fp64."""
        return values if self.world == 1 else self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, value: T) -> list[T]:
        """What each worker has, in the order of their ranks, on all of them."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return [each for each in values if each is not None]

    def agree(self, yes: bool) -> bool:
        """True where every worker says yes."""
        return self.sum([0.0 if yes else 1.0])[0] == 0

    def new_attempt(self) -> str:
        """A fresh random id that all workers of this group share (48 bits, so that fp64 carries it)."""
        number = secrets.randbits(48) if self.rank == 0 else 0
        return f"{int(self.sum([float(number)])[0]):012x}"

    def _reduce(self, values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self._exchange_device())
        dist.all_reduce(tensor, how)
        return tensor.tolist()

    def _exchange_device(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


def split_digest(digest: int) -> list[float]:
    """64 bits as four 16-bit numbers, whose sums over the workers are exact in fp64."""
    return [float(digest >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]


def join_digest(parts: list[float]) -> int:
    """The sum modulo 2^64 of the digests that were split."""
    return sum(int(part) << shift for part, shift in zip(parts, (0, 16, 32, 48), strict=True)) & (2**64 - 1)
