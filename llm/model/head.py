"""The output layer and its loss, which never holds the logits of a whole batch.

Shapes: N tokens (batch times length), D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 512  # tokens whose logits exist at once: 12 MB in fp32 at a vocabulary of 6,144


class LMHead(nn.Linear):
    """Hidden states to logits; with targets, to the summed loss."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Logits [..., V]; or, given targets and weights [...], the sum of weight * cross-entropy in nats.

        One forward for both, since ZeRO 3 brings the weights here only while the module is called.
        """
        if targets is None or weights is None:
            return F.linear(hidden, self.weight)
        # Asked here: inside the function the weight always looks as if its gradient were wanted.
        wanted = torch.is_grad_enabled()
        flat = hidden.reshape(-1, hidden.shape[-1])
        loss: Tensor = _LinearCrossEntropy.apply(
            flat, self.weight, targets.reshape(-1), weights.reshape(-1), wanted
        )
        return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """sum_n w_n * (logsumexp(z_n) - z_n[t_n]) with z = H W^T, in chunks of rows.

    The gradient dz = w_n * (softmax(z_n) - onehot(t_n)) is taken in the same pass, while a chunk's logits are
    there, so nothing is computed twice and memory holds ROWS x V numbers instead of N x V.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, wanted: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            chunk, target, w = hidden[rows], targets[rows, None], weights[rows, None]
            logits = F.linear(chunk, weight).float()  # bf16 where autocast is on; the softmax is fp32
            picked = logits.gather(1, target)
            highest = logits.max(1, keepdim=True).values
            exponents = logits.sub_(highest).exp_()
            sums = exponents.sum(1, keepdim=True)
            total += ((sums.log() + highest - picked) * w).sum()
            if grad_hidden is not None and grad_weight is not None:
                gradient = exponents.mul_(w / sums)
                gradient.scatter_add_(1, target, -w)
                grad_hidden[rows] = gradient @ weight
                grad_weight += gradient.T @ chunk
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * upstream[0], grad_weight * upstream[0], None, None, None
