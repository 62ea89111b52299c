"""Optimizers: which parameters each treats how, what state each keeps, and those that torch has not got.

An optimizer here may get what ZeRO makes of the parameters, flat parts of them, instead of the parameters. So
all work element by element, but for Muon, which asks for whole matrices (`Pieces`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from llm.train.engine import WEIGHT
from llm.train.objective import Objective
from llm.training_settings import OptimizerSettings

MOMENTUM = "momentum_buffer"
ADAM = ("exp_avg", "exp_avg_sq")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Piece(NamedTuple):
    """A matrix, of which this worker has a part."""

    whole: Tensor
    """[rows, columns], as all workers have it together."""
    part: Tensor
    """A flat view on this worker's elements, to be overwritten."""
    start: int
    """Where they begin in the flat matrix."""


Pieces = Callable[[Tensor, Tensor], Iterable[Piece]]
"""(what the optimizer has for a parameter, values of its shape) -> matrices of these values. All workers call
it together."""
Rate = Callable[[str], float]
"""A parameter's name to its share of the learning rate."""


def in_one_piece(parameter: Tensor, values: Tensor) -> Iterable[Piece]:
    """Of a parameter that this worker has as a whole."""
    yield Piece(values, values.view(-1), 0)


def states_of(settings: OptimizerSettings, dims: int, in_block: bool = True) -> tuple[str, ...]:
    """Names of the fp32 arrays that are kept for a parameter with so many dimensions.

    `in_block`: it belongs to one of the transformer's blocks.
    """
    match settings.kind:
        case "sgd":
            return (MOMENTUM,) if settings.momentum else ()
        case "lion":
            return ADAM[:1]
        case "muon" if dims == 2 and in_block:
            return (MOMENTUM,)
    return ADAM


def full_rate(name: str) -> float:
    """Every parameter learns at the learning rate itself."""
    return 1.0


def parameter_groups(
    objective: Objective, settings: OptimizerSettings, rate: Rate = full_rate
) -> list[dict[str, Any]]:
    """Parameters that are treated alike: blocks' matrices under Muon, then by weight decay and rate.

    Frozen ones are in none. Each group has `weight_decay`, `muon`, `states`, the names of what is kept for
    each parameter, and `rate`, its share of the learning rate (see `set_rate`).
    """
    embeds = {id(m.weight) for m in objective.modules() if isinstance(m, nn.Embedding)}
    decay_of_embeds = settings.weight_decay if settings.embedding_decay is None else settings.embedding_decay
    groups: dict[tuple[bool, float, tuple[str, ...], float], list[nn.Parameter]] = {}
    named = sorted(objective.model.named_parameters(), key=lambda item: item[1].dim() < 2)  # matrices first
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        in_block = _in_block(name)
        muon = settings.kind == "muon" and in_block and parameter.dim() == 2
        if parameter.dim() < 2:
            decay = settings.vector_decay
        else:
            decay = decay_of_embeds if id(parameter) in embeds else settings.weight_decay
        key = (muon, decay, states_of(settings, parameter.dim(), in_block), rate(name))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "muon": muon, "states": states, "rate": share}
        for (muon, decay, states, share), params in groups.items()
    ]


def set_rate(optimizer: Any, lr: float) -> None:
    """Give each group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def states_by_name(objective: Objective, settings: OptimizerSettings) -> dict[str, tuple[str, ...]]:
    """What is kept of each parameter, its weight first, and of a frozen one nothing else.

    To be asked before ZeRO 3 has cut parameters up.
    """
    return {
        name: (WEIGHT, *(states_of(settings, p.dim(), _in_block(name)) if p.requires_grad else ()))
        for name, p in objective.model.named_parameters()
    }


def _in_block(name: str) -> bool:
    return name.startswith("blocks.")


def make_optimizer(
    objective: Objective,
    settings: OptimizerSettings,
    pieces: Pieces = in_one_piece,
    rate: Rate = full_rate,
) -> torch.optim.Optimizer:
    """The optimizer that the settings name. With weight decay L, learning rate r and gradient g:

    adamw: decoupled, w -= r (L w + m / (sqrt(v) + eps)) (Loshchilov and Hutter 2019, algorithm 2). adam: g +=
    L w, then the same without L (Kingma and Ba 2015). sgd: g += L w; m = momentum m + g; w -= r m, Nesterov r
    (g + momentum m) (Sutskever et al. 2013). lion, muon: see the classes. torch's own are one kernel for all.
    """
    groups = parameter_groups(objective, settings, rate)
    betas = (settings.beta1, settings.beta2)
    match settings.kind:
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)
        case "sgd":
            nesterov = settings.nesterov and settings.momentum > 0
            return torch.optim.SGD(
                groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=True
            )
        case "lion":
            return Lion(groups, settings.lr, betas)
        case "muon":
            # Rounding to 16 bits would make more of the last digits' differences than fp32 runs may have.
            dtype = objective.dtype or torch.float32
            return Muon(
                groups, settings.lr, settings.momentum, settings.nesterov, betas, settings.eps, pieces, dtype
            )


def create_states(optimizer: torch.optim.Optimizer, tensors: Sequence[Sequence[Tensor]]) -> None:
    """Give each tensor the states that the first step would create, so that they can be saved and loaded.

    `tensors`: of each parameter group what the optimizer updates.
    """
    for group, mine in zip(optimizer.param_groups, tensors, strict=True):
        for tensor in mine:
            state = optimizer.state[tensor]
            if not state:
                if ADAM[1] in group["states"]:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
                for name in group["states"]:
                    state[name] = torch.zeros_like(tensor, memory_format=torch.preserve_format)


def set_updates(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Set the number of updates in every state that has it (Adam's bias correction)."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(updates)


class Lion(torch.optim.Optimizer):
    """w -= r (L w + sign(beta1 m + (1 - beta1) g)); m = beta2 m + (1 - beta2) g.

    Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2.
    """

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            means = [self.state[p][ADAM[0]] for p in params]
            rate, (beta1, beta2) = group["lr"], group["betas"]
            signs = torch._foreach_lerp(means, gradients, 1 - beta1)
            torch._foreach_sign_(signs)
            torch._foreach_mul_(params, 1 - rate * group["weight_decay"])
            torch._foreach_add_(params, signs, alpha=-rate)
            torch._foreach_lerp_(means, gradients, 1 - beta2)


class Muon(torch.optim.Optimizer):
    """Matrices of the blocks move along their orthogonalised momentum; all else is updated by AdamW.

    m = momentum m + (1 - momentum) g; u = m, Nesterov (1 - momentum) g + momentum m; then w -= r (L w + 0.2
    sqrt(max(rows, columns)) O), O the nearest orthogonal matrix to u (Jordan et al. 2024, Muon). The factor
    gives an update the size of AdamW's, so that one learning rate does for both (Liu et al. 2025, Muon is
    Scalable for LLM Training, section 2.2).

    The momentum stands element by element beside the weights, whatever holds them, and u is put together to
    whole matrices before it is orthogonalised: the update is the same on any number of workers and at any
    ZeRO stage, and comes after clipping. (DeepSpeed's own Muon orthogonalises first.)
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        momentum: float,
        nesterov: bool,
        betas: tuple[float, float],
        eps: float,
        pieces: Pieces,
        dtype: torch.dtype,
    ) -> None:
        """`dtype`: of the matrix products that orthogonalise."""
        super().__init__(groups, {"lr": lr})
        self.momentum, self.nesterov, self.betas, self.eps = momentum, nesterov, betas, eps
        self.pieces, self.dtype = pieces, dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if group["muon"]:
                for parameter in params:
                    self._move(parameter, group["lr"], group["weight_decay"])
            else:
                self._adamw(params, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, rate: float, decay: float) -> None:
        gradient, momentum = parameter.grad, self.state[parameter][MOMENTUM]
        assert gradient is not None
        momentum.lerp_(gradient, 1 - self.momentum)
        update = gradient.lerp(momentum, self.momentum) if self.nesterov else momentum.clone()
        for whole, part, start in self.pieces(parameter, update):
            factor = 0.2 * math.sqrt(max(whole.shape))
            flat = orthogonalise(whole, self.dtype).view(-1)
            part.copy_(flat[start : start + part.numel()]).mul_(factor)
        parameter.mul_(1 - rate * decay).add_(update, alpha=-rate)

    def _adamw(self, params: list[Tensor], rate: float, decay: float) -> None:
        states = [self.state[p] for p in params]
        adamw(
            params, [p.grad for p in params if p.grad is not None],
            [s[ADAM[0]] for s in states], [s[ADAM[1]] for s in states], [], [s["step"] for s in states],
            fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=rate,
            weight_decay=decay, eps=self.eps, maximize=False,
        )  # fmt: skip


def orthogonalise(matrix: Tensor, dtype: torch.dtype, eps: float = 1e-7) -> Tensor:
    """About the nearest orthogonal matrix, fp32: singular values near 1, the same singular vectors.

    Five steps of the Newton-Schulz iteration X = a X + (b X X^T + c (X X^T)^2) X from X = matrix / norm, with
    the coefficients of Jordan et al. 2024, which end between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrix.shape
    x = matrix.to(dtype)
    x = x.T if rows > columns else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.T if rows > columns else x
    return x.contiguous().to(torch.float32)
