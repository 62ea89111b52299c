"""Position in one source to start token: K lanes, each read forwards (C2)."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from data_jobs.hashes import h64, mix_array
from llm.data.permutation import permute

DEFAULT_LANES = 16_384
# "A source of at most 16 GiB" is told in tokens (2 bytes each), because no order formula may contain the
# token width (B2): the same tokens stored wider keep their order.
FULL_SHUFFLE_TOKENS = 1 << 33


class EpochKeys(NamedTuple):
    """What the hash gives for one epoch of one source."""

    lanes: int  # key = H64(seed, source, epoch): of the permutation of lanes
    rho: int  # H64(key, "rho"): of the row at which each lane starts
    rest: int  # H64(key, "rest"): of the permutation of the last N - K*R samples
    phase: int  # H64(key, "phase"): of the first token


@lru_cache(maxsize=4096)
def epoch_keys(seed: int, source: str, epoch: int) -> EpochKeys:
    """The keys of one epoch. `source` is the name, so that other sources do not change this one's order."""
    key = h64(seed, source, epoch)
    return EpochKeys(key, h64(key, "rho"), h64(key, "rest"), h64(key, "phase"))


class Lanes:
    """The order of one source: T tokens as a cyclic stream, N = T div L samples an epoch.

    Where a plan says how many samples there are, N is that number, and the order is one of samples (C5).
    K = N where the source has at most 2^33 tokens (16 GiB of uint16), else min(N, lanes); R = N div K.
    """

    def __init__(
        self,
        source: str,
        tokens: int,
        length: int,
        seed: int,
        lanes: int = DEFAULT_LANES,
        planned: int | None = None,
    ) -> None:
        """`planned`: the samples of an epoch by the source's plan."""
        if length < 1 or lanes < 1:
            raise UserError(f"sequence length and lanes must be at least 1, got {length} and {lanes}")
        if planned is not None and planned < 1:
            raise UserError(
                f"source '{source}' has {tokens} tokens, and no sample of length {length} in them"
            )
        if planned is None and tokens < length + 1:
            raise UserError(
                f"source '{source}' has {tokens} tokens, and one sample of length {length} needs "
                f"{length + 1}; take a shorter length, give the source more text, or leave it out"
            )
        self.source, self.tokens, self.length, self.seed = source, tokens, length, seed
        self.planned = planned is not None
        self.samples = tokens // length if planned is None else planned
        self.lanes = self.samples if tokens <= FULL_SHUFFLE_TOKENS else min(self.samples, lanes)
        self.rows = self.samples // self.lanes

    @cached_property
    def unread(self) -> int:
        """Tokens that an epoch leaves out, T mod L: others in each epoch, as the phase moves. By plan: 0."""
        return 0 if self.planned else self.tokens % self.length

    def start(self, position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Start token of each position p: e = p div N, (phi + i*L) mod T, phi = H64(key, "phase") mod T.

        The sample is the L+1 tokens from there, cyclically. By plan: the sample's number i in [0, N).
        """
        epoch = position // self.samples
        first = int(epoch[0]) if epoch.size else 0
        if (epoch == first).all():
            return self._start(first, position - first * self.samples)
        start = np.empty_like(position)
        for e in np.unique(epoch).tolist():
            here = epoch == e
            start[here] = self._start(e, position[here] - e * self.samples)
        return start

    def index(self, epoch: int, q: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Sample index i in [0, N) of the q-th sample of an epoch: a permutation of [0, N).

        q < K*R: t = q div K, j = q mod K, lane = perm_key(j) on [0, K), row = (t + rho) mod R,
        i = lane*R + row; rho = 0 in epoch 0, else mix(lane xor H64(key, "rho")) mod R.
        q >= K*R: i = K*R + perm'(q - K*R) on [0, N - K*R), keyed by H64(key, "rest").
        """
        keys = epoch_keys(self.seed, self.source, epoch)
        laned = self.lanes * self.rows
        if laned == self.samples or not q.size or int(q.max()) < laned:
            return self._laned(epoch, keys, q)
        i = np.empty_like(q)
        rest = q >= laned
        i[~rest] = self._laned(epoch, keys, q[~rest])
        i[rest] = laned + permute(q[rest] - laned, self.samples - laned, keys.rest)
        return i

    def _start(self, epoch: int, q: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.planned:
            return self.index(epoch, q)
        phase = epoch_keys(self.seed, self.source, epoch).phase % self.tokens
        start = self.index(epoch, q) * self.length
        start += phase
        start[start >= self.tokens] -= self.tokens  # both parts are under T: one turn at most
        return start

    def _laned(self, epoch: int, keys: EpochKeys, q: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.rows == 1:  # lane = sample; row 0, whatever rho
            return permute(q, self.lanes, keys.lanes)
        row = q // self.lanes
        lane = permute(q - row * self.lanes, self.lanes, keys.lanes)
        if epoch:
            rows = np.uint64(self.rows)
            row += (mix_array(lane.astype(np.uint64) ^ np.uint64(keys.rho)) % rows).astype(np.int64)
            row[row >= self.rows] -= self.rows
        lane *= self.rows
        lane += row
        return lane
