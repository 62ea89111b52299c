"""The engine's gradients against plain autograd, before the first step of each start.

Releases of DeepSpeed have trained on wrong gradients without a word: with shared parameters at ZeRO stage 2
(before 0.19.6), say. One micro-batch of each worker shows it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import RunError
from data_jobs.hashes import h64
from llm.data.samples import Batch
from llm.model.inputs import Inputs
from llm.run_settings import RunSettings
from llm.tasks.inputs import inputs_of
from llm.train.checkpoints.layout import TensorInfo
from llm.train.checkpoints.save import tensor_table
from llm.train.engine import Engine, Fragment
from llm.train.group import Group
from llm.train.objective import Objective

MOST_ELEMENTS = 1 << 28  # whose gradients plain autograd makes: 1 GiB
POINTS = 1 << 20  # elements that are compared, over all tensors
MOST_GATHERED = 1 << 30  # elements of a partitioned model that a worker can hold as a whole: 4 GiB
# Of a tensor's largest gradient. Both sides run the same kernels, but sum over workers in another order.
# Assumption, not measured on GPUs: there atomic additions make a difference, too.
TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2, "fp16": 1e-2}


def bare_copy(objective: Objective) -> Objective:
    """The objective without its weights and, if it is made before the engine, without the engine's hooks."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in objective.parameters()
    }
    return copy.deepcopy(objective, memo)


def check_gradients(
    engine: Engine, bare: Objective, batch: Batch, group: Group, settings: RunSettings
) -> None:
    """RunError, on all workers, where an element of the gradient of each worker's first micro-batch is wrong.

    Nothing is left of it: gradients are cleared, and generators stand where they stood.
    """
    tensors = tensor_table(engine)
    if any(_is_partitioned(p) for p in engine.objective.parameters()) and (
        sum(_numel(info) for info in tensors) > MOST_GATHERED
    ):
        if group.rank == 0:
            print(
                f"{settings.section}.selfcheck is left out: the model is too large to gather", file=sys.stderr
            )
        return
    micro = batch.micro[0]
    counts = group.sum(
        [float(micro.weights.sum()), 0.0 if micro.next_weights is None else float(micro.next_weights.sum())]
    )
    by_unit = dict(zip(("tokens", "pairs"), counts, strict=True))
    units = engine.objective.model.terms.values()
    scales = torch.tensor([1 / by_unit[u] if by_unit[u] else 0.0 for u in units], device=group.device)
    inputs = inputs_of(micro, group.device)
    learning = {n for n, p in engine.objective.model.named_parameters() if p.requires_grad}
    chosen = choose([info for info in tensors if info.name in learning], MOST_ELEMENTS)
    places = {info.name: spread(_numel(info), max(1, POINTS // len(chosen))) for info in chosen}
    seed = h64(settings.seed, "selfcheck", batch.step, group.rank) >> 1
    with torch.random.fork_rng([group.device] if group.device.type == "cuda" else []):
        torch.manual_seed(seed)
        engine.accumulate(inputs, scales, last=True)
        torch.manual_seed(seed)  # the same dropout
        weights = _weights(engine, tensors, group)
        factor = engine.loss_scale * (group.world if settings.engine == "deepspeed" else 1)
        wanted = _plain_gradients(bare, weights, inputs, scales, places, group, factor)
    wrong, seen = _compare(
        engine.gradients(), engine.loss_scale, wanted, places, TOLERANCE[settings.precision]
    )
    engine.skip()
    _tell(wrong, seen, [info.name for info in chosen], places, group, settings)


def choose(tensors: Sequence[TensorInfo], most: int) -> list[TensorInfo]:
    """Tensors of at most so many elements together, at least one: shared ones first, then a fixed mixture."""
    chosen: list[TensorInfo] = []
    for info in sorted(tensors, key=lambda info: (not info.aliases, h64("selfcheck", info.name))):
        if sum(map(_numel, chosen)) + _numel(info) <= most:
            chosen.append(info)
    return sorted(chosen or [min(tensors, key=_numel)], key=lambda info: info.name)


def spread(numel: int, most: int) -> Tensor:
    """At most so many elements of a flat tensor, evenly spread, the first among them."""
    count = min(numel, most)
    return torch.arange(count) * numel // count


def _plain_gradients(
    bare: Objective,
    weights: dict[str, Tensor],
    inputs: Inputs,
    scales: Tensor,
    places: dict[str, Tensor],
    group: Group,
    factor: float,
) -> dict[str, Tensor]:
    """By torch alone: the gradients at these places, summed over the workers in fp64.

    `factor`: by which the engine scales the loss and divides after; in 16 bits it changes what is rounded.
    """
    leaves = {name: value.requires_grad_(name in places) for name, value in weights.items()}
    full = {f"model.{name}": value for name, value in leaves.items()}
    sums: Tensor = torch.func.functional_call(bare, full, (inputs,))
    gradients = torch.autograd.grad(
        (sums * (scales * factor)).sum(), [leaves[n] for n in places], allow_unused=True
    )
    parts = [
        torch.zeros(len(at), dtype=torch.float64) if g is None else g.view(-1)[at.to(g.device)].double().cpu()
        for g, at in zip(gradients, places.values(), strict=True)
    ]
    flat = (torch.cat(parts) / factor).to(group.device)
    if group.world > 1:
        dist.all_reduce(flat)
    return dict(zip(places, flat.cpu().split([len(at) for at in places.values()]), strict=True))


def _weights(engine: Engine, tensors: Sequence[TensorInfo], group: Group) -> dict[str, Tensor]:
    """Whole weights, as leaves of their own; put together where ZeRO 3 has cut them up."""
    named = dict(engine.objective.model.named_parameters())
    held = {f.name: f for f in engine.held() if f.state == "weight"}
    found = {}
    for info in tensors:
        parameter = named[info.name]
        whole = parameter.detach()
        if _is_partitioned(parameter):
            whole = torch.zeros(_numel(info), device=group.device)
            if (own := held.get(info.name)) is not None:
                whole[own.start : own.start + own.values.numel()] = own.values
            if group.world > 1:
                dist.all_reduce(whole)
            whole = whole.view(info.shape)
        found[info.name] = whole
    return found


def _compare(
    fragments: Sequence[Fragment],
    scale: float,
    wanted: dict[str, Tensor],
    places: dict[str, Tensor],
    tolerance: float,
) -> tuple[list[float], int]:
    """[1 + tensor, place, engine's, ours] of the worst wrong element (zeros: none); how many were seen.

    `scale`: by what the fragments' values are larger than the gradient.
    What is not finite on both sides is equal: the guard looks after that.
    """
    worst, found, seen = 0.0, [0.0] * 4, 0
    numbers = {name: i for i, name in enumerate(wanted)}
    for fragment in fragments:
        if fragment.name not in wanted:
            continue
        at = places[fragment.name]
        here = ((at >= fragment.start) & (at < fragment.start + fragment.values.numel())).nonzero().view(-1)
        seen += len(here)
        if not len(here):
            continue
        theirs = (
            fragment.values[(at[here] - fragment.start).to(fragment.values.device)].double().cpu() / scale
        )
        whole = wanted[fragment.name]
        ours = whole[here]
        finite = whole[whole.isfinite()]
        largest = finite.abs().max() if len(finite) else torch.zeros(())
        share = (theirs - ours).abs() / largest.clamp(min=torch.finfo(torch.float32).tiny)
        share[share.isnan()] = torch.inf
        share[~theirs.isfinite() & ~ours.isfinite()] = 0.0
        i = int(share.argmax())
        if share[i] > max(tolerance, worst):
            worst = float(share[i])
            found = [1.0 + numbers[fragment.name], float(here[i]), float(theirs[i]), float(ours[i])]
    return found, seen


def _tell(
    wrong: list[float],
    seen: int,
    names: Sequence[str],
    places: dict[str, Tensor],
    group: Group,
    settings: RunSettings,
) -> None:
    """Each worker learns what every worker has found; all raise the same RunError."""
    table = [0.0] * (5 * group.world)
    table[5 * group.rank : 5 * group.rank + 5] = [*wrong, float(seen)]
    table = group.sum(table)
    engine = settings.engine + (f" at stage {settings.zero_stage}" if settings.engine == "deepspeed" else "")
    advice = (
        f"Training is refused. Choose another {settings.section}.zero_stage, engine plain, or another "
        f"release of what the engine is made of; {settings.section}.selfcheck false trains nevertheless"
    )
    for rank in range(group.world):
        tensor, place, theirs, ours, _ = table[5 * rank : 5 * rank + 5]
        if tensor:
            name = names[int(tensor) - 1]
            raise RunError(
                f"self-check: {engine} computes a wrong gradient: element {int(places[name][int(place)])} of "
                f"{name} is {theirs:.6g} on worker {rank}, {ours:.6g} by plain autograd. {advice}"
            )
    if sum(table[4::5]) < sum(len(at) for at in places.values()):
        raise RunError(f"self-check: {engine} holds no gradient for some elements of {names}. {advice}")


def _numel(info: TensorInfo) -> int:
    return int(torch.Size(info.shape).numel())


def _is_partitioned(parameter: Tensor) -> bool:
    """Whether ZeRO 3 has cut it up, small ones that it keeps whole included."""
    return hasattr(parameter, "ds_numel")
