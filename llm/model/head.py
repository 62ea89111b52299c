"""The output layer and its loss, which never holds the logits of a whole batch.

Shapes: N tokens (batch times length), D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model import onednn

# Logits that exist at once. A CPU is fastest while its cache holds them; what is multiplied in 16 bits wants
# more rows at a time, since each product adds to the whole gradient of the weight.
IN_CACHE = 1 << 22  # 16 MiB in fp32
AT_ONCE = 1 << 25  # 64 MiB in 16 bits
FEWEST_ROWS, MOST_ROWS = 128, 2048  # that matrix products like
PACKED_FROM = 1024  # tokens from which laying out the weight is won back


class LMHead(nn.Linear):
    """Hidden states to logits; with targets, to the sums of the loss."""

    def __init__(self, width: int, vocab_size: int, bias: bool = False, softcap: float | None = None) -> None:
        super().__init__(width, vocab_size, bias=bias)
        self.softcap = softcap

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        z_loss: float = 0.0,
        count_hits: bool = False,
        each: bool = False,
    ) -> Tensor:
        """Logits [..., V]; or, given targets and weights [...], sums [3]; or, with `each`, [..., 2].

        They are sum w * cross-entropy (nats), z_loss * sum w * logsumexp^2, and, if asked for, the weight of
        the tokens whose likeliest entry is the target. `each`: nats of each target, and 1 where it is the
        likeliest entry, fp32, without weights and gradients. Logits are softcap * tanh(logits / softcap)
        where a soft-cap is set (Bello et al. 2017; Gemma 2). One forward for all, since ZeRO 3 brings the
        weights here only while the module is called.
        """
        if each and targets is not None:
            return self._each(hidden, targets)
        if targets is None or weights is None:
            return capped(F.linear(hidden, self.weight, self.bias), self.softcap)
        # Asked here: inside the function the weight always looks as if its gradient were wanted.
        wanted = torch.is_grad_enabled()
        learns = wanted and self.weight.requires_grad
        flat = hidden.reshape(-1, hidden.shape[-1])
        sums: Tensor = _LinearCrossEntropy.apply(
            flat, self.weight, self.bias, targets.reshape(-1), weights.reshape(-1),
            z_loss, self.softcap, wanted, learns, count_hits,
        )  # fmt: skip
        return sums

    @torch.no_grad()
    def _each(self, hidden: Tensor, targets: Tensor) -> Tensor:
        flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
        found = torch.empty(len(flat), 2, device=hidden.device)
        step = rows_at_once(self.out_features, AT_ONCE)
        for rows in (slice(start, start + step) for start in range(0, len(flat), step)):
            logits = capped(F.linear(flat[rows], self.weight, self.bias), self.softcap).float()
            found[rows, 0] = F.cross_entropy(logits, wanted[rows], reduction="none")
            found[rows, 1] = (logits.argmax(1) == wanted[rows]).float()
        return found.view(*targets.shape, 2)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """softcap * tanh(logits / softcap)."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class _LinearCrossEntropy(torch.autograd.Function):
    """sum_n w_n * (logsumexp(z_n) - z_n[t_n]) with z = H W^T + b, in chunks of rows.

    The gradient dz = w_n * (softmax(z_n) - onehot(t_n)) is taken in the same pass, while a chunk's logits are
    there, so nothing is computed twice and memory holds a chunk instead of N x V. Few passes over a chunk,
    and a chunk that stays in the cache, are what makes it fast: w_n is multiplied into the sides of width D.
    The z-loss adds 2 * z_loss * w_n * logsumexp(z_n) * softmax(z_n), the soft-cap multiplies by
    1 - (z / cap)^2.

    The first two sums have one gradient, so they must be added with one factor: the upstream of the first.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        softcap: float | None,
        wanted: bool,
        learns: bool,
        count_hits: bool,
    ) -> Tensor:
        """`learns`: the weight is not frozen."""
        total = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        kind = _matmul_type(hidden)
        products = _Products(weight, bias, kind, len(hidden), wanted)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight) if learns else None
        grad_bias = torch.zeros_like(bias) if learns and bias is not None else None
        for start in range(0, len(hidden), products.rows):
            rows = slice(start, start + products.rows)
            chunk = hidden[rows].to(kind)
            logits = products.logits(chunk)
            for part, z in products.parts(logits):
                target, w = targets[rows][part, None], weights[rows][part, None]
                bent = None
                if softcap is not None:
                    z.copy_(capped(z, softcap))
                    bent = 1 - (z / softcap).square()
                if count_hits:
                    total[2] += ((z.argmax(1, keepdim=True) == target) * w).sum()
                picked, highest = z.gather(1, target), z.amax(1, keepdim=True)
                gradient = _softmax(z)
                # The likeliest entry has at least 1/V: its logarithm is exact where others' have underflown.
                log_sums = highest - gradient.amax(1, keepdim=True).log()
                total[0] += ((log_sums - picked) * w).sum()
                if z_loss:
                    total[1] += z_loss * (log_sums.square() * w).sum()
                if not wanted:
                    continue
                if z_loss:
                    gradient.mul_(1 + 2 * z_loss * log_sums)
                gradient.scatter_add_(1, target, torch.full_like(picked, -1.0))
                if bent is not None:
                    gradient.mul_(bent)
                if grad_bias is not None:
                    grad_bias += (gradient.T @ w)[:, 0]
                if gradient is not logits:
                    logits[part].copy_(gradient)
            if grad_hidden is not None:
                w = weights[rows, None]
                grad_hidden[rows] = products.back(logits) * w
                if grad_weight is not None:
                    products.add(grad_weight, logits, chunk * w.to(kind))
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0][0]
        grads = [None if g is None else g * scale for g in ctx.saved_tensors]
        return (*grads, None, None, None, None, None, None, None)


class _Products:
    """The three products of a chunk of rows, and the room for its logits.

    Room is used again for each chunk: fresh memory costs as much as a pass over it.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, kind: torch.dtype, rows: int, wanted: bool
    ) -> None:
        on_cpu, vocab_size = weight.device.type == "cpu", len(weight)
        self.weight = weight.to(kind)
        self.bias = None if bias is None else bias.to(kind)
        self.in_parts = kind != torch.float32
        self.rows = min(rows, rows_at_once(vocab_size, IN_CACHE if on_cpu and not self.in_parts else AT_ONCE))
        part = min(self.rows, rows_at_once(vocab_size, IN_CACHE if on_cpu else AT_ONCE))
        self.packed = self.packed_back = None
        if onednn.can_pack(self.weight) and rows >= PACKED_FROM:
            self.packed = onednn.pack(self.weight, self.rows)
            self.packed_back = onednn.pack(self.weight.T.contiguous(), self.rows) if wanted else None
        self.room = weight.new_empty(self.rows, vocab_size, dtype=kind) if self.packed is None else None
        self.part = weight.new_empty(part, vocab_size, dtype=torch.float32) if self.in_parts else None

    def logits(self, chunk: Tensor) -> Tensor:
        """chunk W^T + b in the type of the products."""
        if self.packed is not None:
            return onednn.product(chunk, self.packed, self.bias)
        assert self.room is not None
        out = self.room[: len(chunk)]
        if self.bias is None:
            return torch.mm(chunk, self.weight.T, out=out)
        return torch.addmm(self.bias, chunk, self.weight.T, out=out)

    def parts(self, logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The logits in fp32, some rows at a time: themselves where that is their type."""
        if self.part is None:
            yield slice(0, len(logits)), logits
            return
        for start in range(0, len(logits), len(self.part)):
            some = logits[start : start + len(self.part)]
            yield slice(start, start + len(some)), self.part[: len(some)].copy_(some)

    def back(self, gradient: Tensor) -> Tensor:
        """gradient W."""
        if self.packed_back is not None:
            return onednn.product(gradient, self.packed_back)
        return gradient @ self.weight

    def add(self, grad_weight: Tensor, gradient: Tensor, chunk: Tensor) -> None:
        """grad_weight += gradient^T chunk."""
        if grad_weight.dtype == chunk.dtype:
            grad_weight.addmm_(gradient.T, chunk)
        else:
            grad_weight += gradient.T @ chunk


def _softmax(logits: Tensor) -> Tensor:
    """Over each row; on CPUs in the same memory, where the kernel ends with a row before it writes it."""
    if logits.device.type == "cpu":
        return torch.ops.aten._softmax.out(logits, 1, False, out=logits)
    return logits.softmax(1)


def rows_at_once(vocab_size: int, logits: int) -> int:
    """Tokens whose logits exist at once: so many numbers, within bounds."""
    return min(max(logits // vocab_size, FEWEST_ROWS), MOST_ROWS)


def _matmul_type(hidden: Tensor) -> torch.dtype:
    """bf16 where autocast is on; the softmax is fp32 in any case."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
