"""The sizes that the moments of a training step are made of, from the settings alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm.data.batches import micro_steps
from llm.data.masking import most_guesses
from llm.deepspeed_config import zero_config
from llm.model.activations import FULL, Activations, Micro, activations
from llm.model.counts import parameters
from llm.settings import GATED, ModelSettings, PretrainSettings
from llm.train.optimizers import states_of
from llm.train.run_order import even_micro_batch

FIRST_BLOCK = "the backward of the first block"


@dataclass(frozen=True)
class Step:
    """The sizes that a step's moments are made of, in bytes."""

    model: ModelSettings
    settings: PretrainSettings
    vocab_size: int
    world: int
    gpu: bool
    reserved: bool
    """Whether a buffer counts as a whole from its first use on."""
    below: float = math.inf
    """Only tensors of fewer bytes than these are counted."""

    def sized(self, size: int) -> int:
        """Bytes of one tensor, as far as they count."""
        return size if size < self.below else 0

    @cached_property
    def plain(self) -> bool:
        return self.settings.engine == "plain"

    @cached_property
    def stage(self) -> int:
        return 0 if self.plain else self.settings.zero_stage

    @cached_property
    def whole(self) -> int:
        """All weights in fp32, or all gradients, counted or not."""
        return FULL * sum(parameters(self.model, self.vocab_size).values())

    @cached_property
    def all(self) -> int:
        """The same, each a tensor of its own."""
        large = [size for size in tensors(self.model, self.vocab_size) if not self.sized(size)]
        return self.whole - sum(large)

    def apart(self, size: int) -> int:
        """So many bytes of the weights, each a tensor of its own, as far as they count."""
        return size * self.all // self.whole

    @cached_property
    def flat(self) -> int:
        """The same in one tensor."""
        return self.sized(self.whole)

    @cached_property
    def share(self) -> int:
        """One worker's part of them, in one tensor."""
        return self.sized(-(-self.whole // self.world))

    @cached_property
    def states(self) -> int:
        """All optimizer states, counted or not."""
        return FULL * states_count(self.model, self.settings, self.vocab_size)

    @cached_property
    def states_apart(self) -> int:
        """All of them, each a tensor of its own."""
        return self.apart(self.states)

    @cached_property
    def own_states(self) -> int:
        """One worker's part of them, flat."""
        return -(-self.states // self.world) if self.share else 0

    @cached_property
    def table(self) -> int:
        """The token embedding."""
        return self.sized(FULL * self.vocab_size * self.model.width)

    @cached_property
    def again(self) -> int:
        """The embedding's own gradient beside the output layer's, where they share the weight."""
        return self.table if self.model.tied else 0

    @cached_property
    def micro(self) -> Micro:
        return micro_of(self.model, self.settings, self.world, self.gpu)._replace(below=self.below)

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
            self.stage,
            1,
            1,
            0.0,
            self.whole // FULL,
            self.settings.offload,
            overrides=self.settings.deepspeed,
        )
        return dict(config["zero_optimization"])

    @cached_property
    def bucket(self) -> int:
        """Room for the gradients that are exchanged at once; of a CPU's what is used of it."""
        size = FULL * int(self.zero["reduce_bucket_size"])
        return size if self.reserved else min(size, self.whole)

    @cached_property
    def update(self) -> int:
        """Beside states and gradients while the optimizer works: Lion's signs, Muon's whole matrices."""
        kind = self.settings.optimizer.kind
        if kind == "lion":
            return self.share if self.stage else self.all
        if kind == "muon":
            return self.share + self.flat if self.stage else 3 * largest_matrix(self.model)
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
        block = a.block + a.casts // self.model.layers
        again = block if self.checkpointed else 0
        yield "the backward of the last block", self.kept + again + a.block_work, 0, self.table
        yield FIRST_BLOCK, a.stream + block + a.block_work, 0, self.table


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


def tensors(model: ModelSettings, vocab_size: int) -> list[int]:
    """Bytes of each matrix in fp32; what is left of the weights are vectors."""
    width, queries, keys = model.width, model.heads * model.head_width, model.groups * model.head_width
    block = [width * (queries + 2 * keys), queries * width, *[width * model.inner] * _sides(model)]
    ends = [vocab_size * width] * (1 if model.tied else 2)
    if model.position == "learned":
        ends.append(model.context * width)
    return [FULL * size for size in (*ends, *(block * model.layers))]


def _sides(model: ModelSettings) -> int:
    return 3 if model.activation in GATED else 2


def block_matrices(model: ModelSettings) -> int:
    """Numbers of the blocks' matrices: attention's two maps, the feed-forward part's two or three."""
    queries, keys = model.heads * model.head_width, model.groups * model.head_width
    return model.layers * model.width * (2 * queries + 2 * keys + _sides(model) * model.inner)


def largest_matrix(model: ModelSettings) -> int:
    rows = (model.heads + 2 * model.groups) * model.head_width
    return FULL * model.width * max(rows, model.inner)
