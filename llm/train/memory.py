"""Bytes that one worker takes, by part, at each moment of a step: arithmetic alone, nothing is started.

A step's moments take unlike things: the loss has all activations and no gradient, the end of the backward
all gradients and hardly an activation, ZeRO's exchange copies of the gradients. What a worker needs is the
largest of them, so each is a sum of its own.

What DeepSpeed holds when is read from its 0.19.8, `stage_1_and_2.py` and `stage3.py`. It is for eager
execution: torch.compile fuses operations and keeps less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from llm.model.activations import FULL
from llm.settings import ModelSettings, PretrainSettings
from llm.train.step_sizes import FIRST_BLOCK, Step, largest_matrix

PARTS = ("weights", "gradients", "optimizer", "activations", "buffers")
MIB = 2**20
CHECKED = 1 << 28  # elements whose gradients the self-check makes (selfcheck.MOST_ELEMENTS)
# What a CPU's process takes when libraries are first called, pages of code and rooms of threads: the rows of
# tiny models in `python -m benchmarks memory`. It hangs on what the system had mapped by the end of the
# imports, and comes out up to 35 MiB lower or higher: the middle.
LIBRARIES = {"plain": 55 * MIB, "deepspeed": 105 * MIB}
# glibc gives freed blocks of this size and more back at once (DEFAULT_MMAP_THRESHOLD_MAX in mallopt(3)); of
# smaller ones the process keeps the memory, to use it again.
GIVEN_BACK = 32 * MIB


class Moment(NamedTuple):
    """What stands in a worker's memory at one moment."""

    name: str
    parts: dict[str, int]
    """Bytes of each of PARTS; on a GPU those on it."""
    host: int = 0
    """Bytes of what is offloaded, in the host's memory."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values()) + self.host


@dataclass(frozen=True)
class Need:
    """What one worker takes."""

    moments: tuple[Moment, ...]
    peak: Moment
    """The moment that takes most of the device's memory; on a CPU offloaded parts are in it, too."""
    snapshot: int
    """Bytes of the copy in the host's memory that a checkpoint is written from while training goes on."""
    gpu: bool

    @property
    def device(self) -> int:
        """Bytes of the GPU's memory, or of a CPU worker's, without a checkpoint's copy."""
        return self.peak.bytes - (self.peak.host if self.gpu else 0)

    @property
    def host(self) -> int:
        """Most bytes of the host's memory beside that: what is offloaded from a GPU, a checkpoint's copy."""
        return self.snapshot + (max(m.host for m in self.moments) if self.gpu else 0)


def memory_of(
    model: ModelSettings,
    settings: PretrainSettings,
    vocab_size: int,
    workers: int,
    gpu: bool = False,
    resident: bool = True,
) -> Need:
    """What each of so many workers takes with these settings' engine, stage, offload and micro-batch.

    `resident`: of a CPU's memory what the system counts as the process's: pages that were written to, and
    small blocks that were freed; else what is allocated.
    """
    step = Step(model, settings, vocab_size, workers, gpu, gpu or not resident)
    moments = tuple(_moments(step))
    snapshot = -(-(step.whole + step.states) // workers)
    if gpu:
        peak = max(moments, key=lambda m: m.bytes - m.host)
    elif not resident:
        peak = max(moments, key=lambda m: m.bytes)
    else:
        small = tuple(_moments(replace(step, below=GIVEN_BACK)))
        # fp32 gradients come while 16-bit copies of weights go, and do not fit into the room of those.
        peak = _resident(moments, small, step.acts.casts + LIBRARIES[settings.engine])
    return Need(moments, peak, snapshot, gpu)


def _resident(moments: Sequence[Moment], small: Sequence[Moment], more: int) -> Moment:
    """The moment of most bytes, and among its buffers what a process holds beyond them.

    That is the most that large blocks take at any moment, the most that small ones have taken at any, and
    `more`.
    """
    large = max(m.bytes - less.bytes for m, less in zip(moments, small, strict=True))
    held = large + max(m.bytes for m in small) + more
    moment = max(moments, key=lambda m: m.bytes)
    buffers = moment.parts["buffers"] + held - moment.bytes
    return moment._replace(parts=moment.parts | {"buffers": buffers})


def _moments(step: Step) -> Iterator[Moment]:
    yield from {0: _whole, 1: _zero12, 2: _zero12, 3: _zero3}[step.stage](step)


def _whole(s: Step) -> Iterator[Moment]:
    """Plain and ZeRO 0: every worker holds everything, and sums gradients in one flat copy."""
    always = {"weights": s.all, "optimizer": s.states_apart}
    before = s.all if s.adds_up else 0
    for name, acts, buffers, waiting in s.forward():
        alone = name == FIRST_BLOCK and not s.adds_up  # then those of all later blocks are there
        yield _moment(name, always, s.later if alone else before + waiting, acts, buffers)
    # Gradients of earlier micro-batches are added to one by one; only shared weights wait, for both sides.
    twice = (s.table if s.adds_up else 0) + s.again
    yield _moment("the end of the backward", always, s.all + twice, s.acts.stream, 0)
    if s.world > 1 or not s.plain:
        yield _moment("the sum over workers", always, s.all, 0, s.flat)
    yield _moment("the update", always, s.all, 0, s.update)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=s.all, gathered=0)


def _zero12(s: Step) -> Iterator[Moment]:
    """ZeRO 1 and 2: whole weights beside an fp32 part of one's own, which the optimizer updates.

    Stage 2 copies each gradient into the bucket when it is there, stage 1 all of them after the backward. A
    bucket as large as the model holds both at the same height.
    """
    offloaded = s.settings.offload.optimizer != "none"
    largest = max(s.table, largest_matrix(s.model)) if offloaded else 0
    host = 3 * s.share + s.own_states + largest if offloaded else 0  # part, its copy for the device, gradient
    if offloaded and s.adds_up:
        host += s.share
    always = {"weights": s.flat, "optimizer": 0} if offloaded else {
        "weights": s.flat + s.share, "optimizer": s.own_states
    }  # fmt: skip
    own = 0 if offloaded else s.share
    one = s.sized(s.bucket)
    bucket = one * (2 if s.zero["overlap_comm"] else 1)
    fixed = largest  # room for one gradient on its way to the host
    yield _moment("the start", {"weights": s.all + s.flat, "optimizer": 0}, 0, 0, 0, host)
    early = s.stage == 2
    before = 0 if not s.adds_up else own if early else s.all
    for name, acts, buffers, waiting in s.forward():
        # A GPU's bucket is there as a whole from the first gradient on, a CPU's page by page as it fills.
        filled = bucket if waiting and s.reserved else 0
        if early and waiting and not s.reserved and name == FIRST_BLOCK:
            filled = one
        if not early and name == FIRST_BLOCK:
            waiting = max(waiting, s.later - before)
        yield _moment(name, always, before + waiting, acts, buffers + filled + fixed, host)
    late = s.table + s.again if early else s.all + s.again + (s.table if s.adds_up else 0)
    filled = bucket if s.reserved or early else 0
    yield _moment(
        "the end of the backward",
        always,
        (before if early else 0) + late,
        s.acts.stream,
        filled + fixed,
        host,
    )
    rest = (
        0 if early else s.apart(max(0, s.whole - s.bucket))
    )  # gradients that have not been through the bucket
    own_before = before if early else 0
    flat = one if s.world > 1 and s.zero["reduce_scatter"] else 0
    partly = own if s.bucket < s.whole else 0
    yield _moment(
        "the exchange of gradients", always, rest + own_before + partly, 0, bucket + flat + fixed, host
    )
    yield _moment("the parting of gradients", always, rest + own_before + own, 0, bucket + fixed, host)
    yield _moment("the update", always, 2 * own, 0, s.update, host)
    if s.world > 1 and not s.gpu:  # gloo gathers into a copy
        yield _moment("the exchange of weights", always, 0, 0, s.flat, host)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=own, gathered=0, host=host)


def _zero3(s: Step) -> Iterator[Moment]:
    """ZeRO 3: parts of the weights, twice (as they are gathered, and as they are updated), parts of the rest.

    Weights that are gathered stay where they are used again within `stage3_max_reuse_distance`: all of a
    model of up to half of it. Gradients are parted by way of a bucket, a copy in the workers' order, and
    gloo's own copy.
    """
    offload = s.settings.offload
    device_weights = 0 if offload.parameters != "none" else s.share
    host = s.share - device_weights
    if offload.optimizer != "none":
        host += 3 * s.share + s.own_states  # fp32 part, its gradient, the parts of the gradients
        always = {"weights": device_weights, "optimizer": 0}
        own = 0
    else:
        always = {"weights": device_weights + s.share, "optimizer": s.own_states}
        own = s.share
    yield _moment("the start", {"weights": s.all + s.share, "optimizer": 0}, 0, 0, 0, host)
    gathered = 0
    if s.world > 1 or (s.gpu and offload.parameters != "none"):
        ahead = s.sized(min(s.whole, FULL * int(s.zero["stage3_prefetch_bucket_size"])))
        # From the forward of a weight to its backward lie twice the weights behind it.
        live = min(s.whole, FULL * int(s.zero["stage3_max_reuse_distance"]) // 2)
        gathered = s.apart(live) + ahead
        copies = 1 if s.gpu else 2  # gloo gathers into a copy
        whole = {**always, "weights": always["weights"] + s.table + copies * ahead}
        yield _moment("the gathering of weights", whole, own, 0, s.sized(s.bucket), host)
    one = s.sized(s.bucket)
    bucket = one if s.zero["contiguous_gradients"] else 0
    for name, acts, buffers, waiting in s.forward():
        whole = {**always, "weights": always["weights"] + (s.table if name == FIRST_BLOCK else gathered)}
        yield _moment(name, whole, own + waiting, acts, buffers + bucket, host)
    yield _moment(
        "the end of the backward", always, own + s.table + s.again, s.acts.stream, bucket + s.table, host
    )
    copies = one * (1 if s.gpu else 2)
    yield _moment("the exchange of gradients", always, own, 0, bucket + copies, host)
    yield _moment("the update", always, 2 * own, 0, bucket + s.update, host)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=own, gathered=s.all, host=host, buffers=bucket)


def _selfcheck(
    s: Step, always: dict[str, int], held: int, gathered: int, host: int = 0, buffers: int = 0
) -> Iterator[Moment]:
    """Before the first step: plain autograd beside what the engine holds of its gradients."""
    whole = {**always, "weights": always["weights"] + gathered}
    a = s.acts
    yield _moment("the self-check's loss", whole, held, s.kept + a.loss, a.loss_work + buffers, host)
    made = s.apart(min(s.whole, FULL * CHECKED)) + s.again
    yield _moment("the self-check's backward", whole, held + made, a.stream, buffers, host)


def _moment(
    name: str, always: dict[str, int], gradients: int, acts: int, buffers: int, host: int = 0
) -> Moment:
    return Moment(name, always | {"gradients": gradients, "activations": acts, "buffers": buffers}, host)
