"""The output layer and its loss, which never holds the logits of a whole batch.

Shapes: N tokens (batch times length), D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 1 << 24  # logits that exist at once: 64 MiB in fp32


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
    ) -> Tensor:
        """Logits [..., V]; or, given targets and weights [...], sums [3].

        They are sum w * cross-entropy (nats), z_loss * sum w * logsumexp^2, and, if asked for, the weight of
        the tokens whose likeliest entry is the target. Logits are softcap * tanh(logits / softcap) where a
        soft-cap is set (Bello et al. 2017; Gemma 2). One forward for all, since ZeRO 3 brings the weights
        here only while the module is called.
        """
        if targets is None or weights is None:
            return capped(F.linear(hidden, self.weight, self.bias), self.softcap)
        # Asked here: inside the function the weight always looks as if its gradient were wanted.
        wanted = torch.is_grad_enabled()
        flat = hidden.reshape(-1, hidden.shape[-1])
        sums: Tensor = _LinearCrossEntropy.apply(
            flat, self.weight, self.bias, targets.reshape(-1), weights.reshape(-1),
            z_loss, self.softcap, wanted, count_hits,
        )  # fmt: skip
        return sums


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """softcap * tanh(logits / softcap)."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class _LinearCrossEntropy(torch.autograd.Function):
    """sum_n w_n * (logsumexp(z_n) - z_n[t_n]) with z = H W^T + b, in chunks of rows.

    The gradient dz = w_n * (softmax(z_n) - onehot(t_n)) is taken in the same pass, while a chunk's logits are
    there, so nothing is computed twice and memory holds a chunk instead of N x V. Few passes over a chunk are
    what makes it fast: w_n is multiplied into the sides of width D. The z-loss adds
    2 * z_loss * w_n * logsumexp(z_n) * softmax(z_n), the soft-cap multiplies by 1 - (z / cap)^2.

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
        count_hits: bool,
    ) -> Tensor:
        total = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        kind = _matmul_type(hidden)
        cast_weight = weight.to(kind)
        cast_bias = None if bias is None else bias.to(kind)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        grad_bias = torch.zeros_like(bias) if wanted and bias is not None else None
        buffers = _Buffers(min(len(hidden), rows_at_once(len(weight))), weight, kind)
        for start in range(0, len(hidden), buffers.rows):
            rows = slice(start, start + buffers.rows)
            chunk, target, w = hidden[rows].to(kind), targets[rows, None], weights[rows, None]
            logits = buffers.logits(chunk, cast_weight, cast_bias)
            bent = None
            if softcap is not None:
                logits.copy_(capped(logits, softcap))
                bent = 1 - (logits / softcap).square()
            picked_logits = logits.gather(1, target)
            logs = buffers.log_softmax(logits)
            picked = logs.gather(1, target)
            total[0] -= (picked * w).sum()
            if count_hits:
                total[2] += ((logs.argmax(1, keepdim=True) == target) * w).sum()
            log_sums = picked_logits - picked
            if z_loss:
                total[1] += z_loss * (log_sums.square() * w).sum()
            if grad_hidden is not None and grad_weight is not None:
                gradient = logs.exp_()
                if z_loss:
                    gradient.mul_(1 + 2 * z_loss * log_sums)
                gradient.scatter_add_(1, target, torch.full_like(picked, -1.0))
                if bent is not None:
                    gradient.mul_(bent)
                if grad_bias is not None:
                    grad_bias += (gradient.T @ w)[:, 0]
                cast = buffers.cast(gradient)
                grad_hidden[rows] = (cast @ cast_weight) * w
                if kind == torch.float32:
                    grad_weight.addmm_(cast.T, chunk * w)
                else:
                    grad_weight += cast.T @ (chunk * w.to(kind))
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0][0]
        grads = [None if g is None else g * scale for g in ctx.saved_tensors]
        return (*grads, None, None, None, None, None, None)


class _Buffers:
    """Room for one chunk's logits, used again for each: fresh memory costs as much as a pass over it."""

    def __init__(self, rows: int, weight: Tensor, kind: torch.dtype) -> None:
        self.rows = max(rows, 1)
        self.whole = weight.new_empty(self.rows, len(weight), dtype=torch.float32)
        self.half = None if kind == torch.float32 else torch.empty_like(self.whole, dtype=kind)

    def logits(self, chunk: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """chunk W^T + b in fp32, multiplied in the chunk's type."""
        out = (self.whole if self.half is None else self.half)[: len(chunk)]
        if bias is None:
            torch.mm(chunk, weight.T, out=out)
        else:
            torch.addmm(bias, chunk, weight.T, out=out)
        return out if self.half is None else self.whole[: len(chunk)].copy_(out)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Over each row; on CPUs in the same memory, where the kernel ends with a row before it writes it."""
        if logits.device.type == "cpu":
            return torch.ops.aten._log_softmax.out(logits, 1, False, out=logits)
        return logits.log_softmax(1)

    def cast(self, gradient: Tensor) -> Tensor:
        """The gradient in the type of the products."""
        return gradient if self.half is None else self.half[: len(gradient)].copy_(gradient)


def rows_at_once(vocab_size: int) -> int:
    """Tokens whose logits exist at once: CHUNK numbers, within bounds that matrix products like."""
    return min(max(CHUNK // vocab_size, 128), 2048)


def _matmul_type(hidden: Tensor) -> torch.dtype:
    """bf16 where autocast is on; the softmax is fp32 in any case."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
