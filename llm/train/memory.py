"""Bytes that one worker takes, by part, at each moment of a step: arithmetic alone, nothing is started.

A step's moments take unlike things: the loss has all activations and no gradient, the end of the backward
all gradients and hardly an activation, ZeRO's exchange copies of the gradients. What a worker needs is the
largest of them, so each is a sum of its own.

What DeepSpeed holds when is read from its 0.19.8, `stage_1_and_2.py` and `stage3.py`. It is for eager
execution: torch.compile fuses operations and keeps less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from llm.data.batches import micro_steps
from llm.data.masking import most_guesses
from llm.model.activations import FULL, Activations, Micro, activations
from llm.model.counts import parameters
from llm.settings import GATED, ModelSettings, PretrainSettings
from llm.train.deepspeed_config import zero_config
from llm.train.optimizers import states_of
from llm.train.run_order import even_micro_batch

PARTS = ("weights", "gradients", "optimizer", "activations", "buffers")
CHECKED = 1 << 28  # elements whose gradients the self-check makes (selfcheck.MOST_ELEMENTS)


class Moment(NamedTuple):
    """What stands in a worker's memory at one moment."""

    name: str
    parts: dict[str, int]
    """Bytes of each of PARTS; on a GPU those on it."""
    host: int = 0
    """Bytes of what is offloaded, in the host's memory."""

    @property
    def bytes(self) -> int:
        """Without what is offloaded."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Need:
    """What one worker takes."""

    moments: tuple[Moment, ...]
    snapshot: int
    """Bytes of the copy in the host's memory that a checkpoint is written from while training goes on."""
    gpu: bool

    @property
    def peak(self) -> Moment:
        """The moment that takes most of the device's memory; on a CPU offloaded parts are in it, too."""
        return max(self.moments, key=lambda m: m.bytes + (0 if self.gpu else m.host))

    @property
    def device(self) -> int:
        """Bytes of the GPU's memory, or of a CPU worker's, without a checkpoint's copy."""
        return self.peak.bytes + (0 if self.gpu else self.peak.host)

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

    `resident`: of a CPU's memory what is written to, as systems count it; else all that is allocated.
    """
    step = _Step(model, settings, vocab_size, workers, gpu, gpu or not resident)
    engine = {0: _whole, 1: _zero12, 2: _zero12, 3: _zero3}[step.stage]
    moments = tuple(engine(step))
    snapshot = -(-(step.all + step.states) // workers)
    return Need(moments, snapshot, gpu)


@dataclass(frozen=True)
class _Step:
    """The sizes that a step's moments are made of, in bytes."""

    model: ModelSettings
    settings: PretrainSettings
    vocab_size: int
    world: int
    gpu: bool
    reserved: bool
    """Whether a buffer counts as a whole from its first use on."""

    @cached_property
    def plain(self) -> bool:
        return self.settings.engine == "plain"

    @cached_property
    def stage(self) -> int:
        return 0 if self.plain else self.settings.zero_stage

    @cached_property
    def all(self) -> int:
        """All weights in fp32, or all gradients."""
        return FULL * sum(parameters(self.model, self.vocab_size).values())

    @cached_property
    def share(self) -> int:
        """One worker's part of them."""
        return -(-self.all // self.world)

    @cached_property
    def states(self) -> int:
        """All optimizer states."""
        return FULL * states_count(self.model, self.settings, self.vocab_size)

    @cached_property
    def own_states(self) -> int:
        return -(-self.states // self.world)

    @cached_property
    def table(self) -> int:
        """The token embedding."""
        return FULL * self.vocab_size * self.model.width

    @cached_property
    def again(self) -> int:
        """The embedding's own gradient beside the output layer's, where they share the weight."""
        return self.table if self.model.tied else 0

    @cached_property
    def micro(self) -> Micro:
        return micro_of(self.model, self.settings, self.world, self.gpu)

    @cached_property
    def acts(self) -> Activations:
        return activations(self.model, self.vocab_size, self.micro)

    @cached_property
    def adds_up(self) -> bool:
        """Whether several micro-batches make a batch: then gradients stand there during a forward."""
        return micro_steps(self.settings.batch, self.world, self.micro.rows) > 1

    @cached_property
    def zero(self) -> dict[str, Any]:
        """DeepSpeed's own settings."""
        config = zero_config(
            self.stage, 1, 1, 0.0, self.all // FULL, self.settings.offload, overrides=self.settings.deepspeed
        )
        return dict(config["zero_optimization"])

    @cached_property
    def bucket(self) -> int:
        """Of the gradients that are exchanged at once, as much as is used."""
        return min(FULL * int(self.zero["reduce_bucket_size"]), self.all)

    @cached_property
    def update(self) -> int:
        """Beside states and gradients while the optimizer works: Lion's signs, Muon's whole matrices."""
        kind = self.settings.optimizer.kind
        if kind == "lion":
            return self.share if self.stage else self.all
        if kind == "muon":
            return self.share + self.all if self.stage else 3 * _largest_matrix(self.model)
        return 0

    # What autograd and the loss take, the same for each engine.

    @cached_property
    def kept(self) -> int:
        """Activations that stand between forward and backward, without what the loss keeps."""
        a = self.acts
        blocks = a.masks + self.model.layers * a.stream if self.checkpointed else a.blocks
        return a.ends + blocks + a.casts

    @cached_property
    def checkpointed(self) -> bool:
        return self.settings.activation_checkpointing

    def forward(self) -> Iterator[tuple[str, int, int, int]]:
        """Moments until the backward's end: (name, activations, buffers, new gradients that wait for others).

        Shared weights have their gradient when the embedding has added its own.
        """
        a = self.acts
        yield "the loss", self.kept + a.loss, a.loss_work, 0
        yield "the start of the backward", self.kept + a.loss, a.loss_backward, 0
        block = a.block + a.casts // max(1, self.model.layers) if self.checkpointed else 0
        yield "the backward of the last block", self.kept + block + a.block_work, 0, self.table
        yield "the backward of the first block", a.stream + block + a.block_work, 0, self.table


def _whole(s: _Step) -> Iterator[Moment]:
    """Plain and ZeRO 0: every worker holds everything, and sums gradients in one flat copy."""
    always = {"weights": s.all, "optimizer": s.states}
    before = s.all if s.adds_up else 0
    for name, acts, buffers, waiting in s.forward():
        yield _moment(name, always, before + waiting, acts, buffers)
    # Gradients of earlier micro-batches are added to one by one; only shared weights wait, for both sides.
    twice = (s.table if s.adds_up else 0) + s.again
    yield _moment("the end of the backward", always, s.all + twice, s.acts.stream, 0)
    if s.world > 1 or not s.plain:
        yield _moment("the sum over workers", always, s.all, 0, s.all)
    yield _moment("the update", always, s.all, 0, s.update)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=s.all, gathered=0)


def _zero12(s: _Step) -> Iterator[Moment]:
    """ZeRO 1 and 2: whole weights beside an fp32 part of one's own, which the optimizer updates.

    Stage 2 copies each gradient into the bucket when it is there, stage 1 all of them after the backward. A
    bucket as large as the model holds both at the same height.
    """
    offloaded = s.settings.offload.optimizer != "none"
    largest = max(s.table, _largest_matrix(s.model)) if offloaded else 0
    host = 3 * s.share + s.own_states + largest if offloaded else 0  # part, its copy for the device, gradient
    if offloaded and s.adds_up:
        host += s.share
    always = {"weights": s.all, "optimizer": 0} if offloaded else {
        "weights": s.all + s.share, "optimizer": s.own_states
    }  # fmt: skip
    own = 0 if offloaded else s.share
    bucket = s.bucket * (2 if s.zero["overlap_comm"] else 1)
    fixed = largest  # room for one gradient on its way to the host
    early = s.stage == 2
    before = 0 if not s.adds_up else own if early else s.all
    for name, acts, buffers, waiting in s.forward():
        # A GPU's bucket is there as a whole from the first gradient on, a CPU's page by page as it fills.
        filled = bucket if waiting and s.reserved else 0
        if early and waiting and not s.reserved and "first" in name:
            filled = max(0, s.bucket - s.table)
        if not early and "first" in name:
            waiting = max(waiting, s.all - before)
        yield _moment(name, always, before + waiting, acts, buffers + filled + fixed, host)
    late = s.table + s.again if early else s.all + s.again + (s.table if s.adds_up else 0)
    filled = bucket if s.reserved else max(0, s.bucket - s.table) if early else 0
    yield _moment(
        "the end of the backward",
        always,
        (before if early else 0) + late,
        s.acts.stream,
        filled + fixed,
        host,
    )
    rest = 0 if early else s.all - s.bucket  # gradients that have not been through the bucket
    own_before = before if early else 0
    flat = s.bucket if s.world > 1 and s.zero["reduce_scatter"] else 0
    partly = own if s.bucket < s.all else 0
    yield _moment(
        "the exchange of gradients", always, rest + own_before + partly, 0, bucket + flat + fixed, host
    )
    yield _moment("the parting of gradients", always, rest + own_before + own, 0, bucket + fixed, host)
    yield _moment("the update", always, 2 * own, 0, s.update, host)
    if s.world > 1 and not s.gpu:  # gloo gathers into a copy
        yield _moment("the exchange of weights", always, 0, 0, s.all, host)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=own, gathered=0, host=host)


def _zero3(s: _Step) -> Iterator[Moment]:
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
    gathered = 0
    if s.world > 1 or (s.gpu and offload.parameters != "none"):
        reuse, ahead = int(s.zero["stage3_max_reuse_distance"]), int(s.zero["stage3_prefetch_bucket_size"])
        gathered = min(s.all, FULL * reuse // 2) + min(s.all, FULL * ahead)
    bucket = s.bucket if s.zero["contiguous_gradients"] else 0
    for name, acts, buffers, waiting in s.forward():
        whole = {**always, "weights": always["weights"] + (s.table if "first" in name else gathered)}
        yield _moment(name, whole, own + waiting, acts, buffers + bucket, host)
    yield _moment(
        "the end of the backward", always, own + s.table + s.again, s.acts.stream, bucket + s.table, host
    )
    copies = s.bucket * (1 if s.gpu else 2)
    yield _moment("the exchange of gradients", always, own, 0, bucket + copies, host)
    yield _moment("the update", always, 2 * own, 0, bucket + s.update, host)
    if s.settings.selfcheck:
        yield from _selfcheck(s, always, held=own, gathered=s.all, host=host, buffers=bucket)


def _selfcheck(
    s: _Step, always: dict[str, int], held: int, gathered: int, host: int = 0, buffers: int = 0
) -> Iterator[Moment]:
    """Before the first step: plain autograd beside what the engine holds of its gradients."""
    whole = {**always, "weights": always["weights"] + gathered}
    a = s.acts
    kept = a.ends + (a.masks + s.model.layers * a.stream if s.checkpointed else a.blocks) + a.casts
    yield _moment("the self-check's loss", whole, held, kept + a.loss, a.loss_work + buffers, host)
    made = min(s.all, FULL * CHECKED) + s.again
    yield _moment("the self-check's backward", whole, held + made, a.stream, buffers, host)


def _moment(
    name: str, always: dict[str, int], gradients: int, acts: int, buffers: int, host: int = 0
) -> Moment:
    return Moment(name, always | {"gradients": gradients, "activations": acts, "buffers": buffers}, host)


def micro_of(model: ModelSettings, settings: PretrainSettings, world: int, gpu: bool) -> Micro:
    """The forward that one of so many workers takes."""
    bert = model.kind == "bert"
    guesses = 0
    if bert:
        guesses = most_guesses(settings.length - (3 if model.next_sentence else 2), settings.masking)
    return Micro(
        rows=even_micro_batch(settings.batch, world, settings.micro_batch),
        length=settings.length,
        mixed=settings.precision != "fp32",
        confined=bert or settings.confine,
        guesses=guesses,
        gpu=gpu,
    )


def states_count(model: ModelSettings, settings: PretrainSettings, vocab_size: int) -> int:
    """Numbers that the optimizer keeps for all weights."""
    parts = parameters(model, vocab_size)
    total, matrices = sum(parts.values()), block_matrices(model)
    rest = total - matrices
    return matrices * len(states_of(settings.optimizer, 2)) + rest * len(
        states_of(settings.optimizer, 2, in_block=False)
    )


def block_matrices(model: ModelSettings) -> int:
    """Numbers of the blocks' matrices: attention's two maps, the feed-forward part's two or three."""
    queries, keys = model.heads * model.head_width, model.groups * model.head_width
    sides = 3 if model.activation in GATED else 2
    return model.layers * model.width * (2 * queries + 2 * keys + sides * model.inner)


def _largest_matrix(model: ModelSettings) -> int:
    rows = (model.heads + 2 * model.groups) * model.head_width
    return FULL * model.width * max(rows, model.inner)
