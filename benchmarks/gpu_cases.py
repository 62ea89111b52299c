"""What is timed on a GPU: a training step of ours or of a peer, with each lever as it is set.

All sides take the same rows of random tokens from host memory, in micro-batches, clip the gradient and step
AdamW once. Ours is the plain engine as the worker has it; `bare` is our model in a loop of a few lines;
`transformers` is GPT2LMHeadModel in the same loop.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.bare_loop import make_optimizer
from llm.model import Model, attention, head, make_model
from llm.model.gpt import GPT
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from llm.train.compiling import compile_model
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.training_settings import OptimizerSettings

Side = Literal["ours", "bare", "transformers"]
Compile = Literal["none", "blocks", "whole"]
Step = Callable[[], float]
"""One update of the weights; the loss before it."""

WARM_UP = 3  # steps before the clock: they compile, choose kernels and allocate
FEWEST_STEPS = 3
LR = 3e-4
# Without cuDNN's, which torch may put first.
NO_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Size:
    """A GPT-2 and its step. The vocabulary is GPT-2's, to the next multiple of 128."""

    name: str
    layers: int
    width: int
    heads: int
    length: int
    micro_batch: int
    accumulation: int
    goal: float | None = None
    """Share of the bf16 peak."""
    vocab: int = 50_304

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings(
            layers=self.layers, width=self.width, heads=self.heads, context=self.length,
            position="learned", norm="layernorm", activation="gelu_tanh", biases="all",
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.micro_batch * self.accumulation * self.length

    def halved(self) -> Size:
        """The same step in micro-batches of half the rows."""
        rows = self.micro_batch // 2
        return replace(self, micro_batch=rows, accumulation=self.micro_batch * self.accumulation // rows)

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, width {self.width}, {self.heads} heads, vocabulary {self.vocab:,}, "
            f"{self.accumulation} x {self.micro_batch} rows of {self.length:,}"
        )


@dataclass(frozen=True)
class Levers:
    """How a step is computed; the result is the same but for rounding."""

    compile: Compile = "blocks"
    attention: Literal["cudnn", "torch", "flash"] = "cudnn"
    """cudnn: its kernel first on a Hopper GPU, as our model has it; torch: torch's order; flash: no cuDNN."""
    loss: Literal["chunks", "whole"] = "chunks"
    """Of ours: whole: all logits of a micro-batch exist."""
    rows: int | None = None
    """Most rows of a chunk (default: the model's own choice)."""
    fused: bool = True
    """AdamW as one kernel; else torch's foreach. (Not of ours.)"""
    deterministic: bool = False
    """torch's deterministic algorithms where it has them (pretrain.deterministic). Of ours alone."""
    precision: Literal["bf16", "fp32"] = "bf16"


@dataclass(frozen=True)
class Timed:
    """What was measured of a step."""

    size: Size
    """With the micro-batch that fitted."""
    tokens_per_second: float
    steps: int
    first_seconds: float
    """Of the first step, which compiles."""
    memory_gb: float

    def __str__(self) -> str:
        return (
            f"{self.size}; {self.steps} steps, median; first step {self.first_seconds:.1f} s; "
            f"{self.memory_gb:.1f} GB at most"
        )


class WholeLogits(GPT):
    """A GPT whose loss has all logits at once, as most training loops have it."""

    def losses(self, inputs: Inputs, z_loss: float = 0.0) -> Tensor:
        assert inputs.targets is not None
        logits = self(inputs.ids).flatten(0, 1).float()
        nats = F.cross_entropy(logits, inputs.targets.flatten(), reduction="sum")
        return torch.stack([nats, torch.zeros_like(nats)])


def timed(side: Side, size: Size, levers: Levers, device: torch.device, seconds: float) -> Timed:
    """Time a side's steps; where memory is short, in micro-batches of half the rows, and so on."""
    while True:
        try:
            return _timed(side, size, levers, device, seconds)
        except torch.OutOfMemoryError:
            if size.micro_batch == 1:
                raise
        size = size.halved()
        free()


def _timed(side: Side, size: Size, levers: Levers, device: torch.device, seconds: float) -> Timed:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with surroundings(side, levers):
        step = make_step(side, size, levers, device)
        begin = time.perf_counter()
        step()
        first = time.perf_counter() - begin
        for _ in range(WARM_UP - 1):
            step()
        taken: list[float] = []
        while sum(taken) < seconds or len(taken) < FEWEST_STEPS:
            begin = time.perf_counter()
            step()  # ends with the loss on the host: all of it is done
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return Timed(size, size.tokens / statistics.median(taken), len(taken), first, memory)


def free() -> None:
    """Give back what a case that is over, or broke off, has taken."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def surroundings(side: Side, levers: Levers) -> Iterator[None]:
    """What a lever changes outside of the step; put back at the end."""
    before = attention.ON_HOPPER, head.AT_ONCE, head.MOST_ROWS
    strict = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        # Norms keep fp32 weights under autocast; scatter and cuDNN have no deterministic kernel to offer.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight|.*determinis", UserWarning)
        if levers.attention == "flash":
            stack.enter_context(sdpa_kernel(NO_CUDNN, set_priority=True))
        elif side == "transformers" and levers.attention == "cudnn":
            stack.enter_context(attention.kernels())
        if levers.attention != "cudnn":
            attention.ON_HOPPER = None
        if levers.rows is not None:
            head.AT_ONCE, head.MOST_ROWS = 1 << 60, levers.rows
        if side == "ours" and levers.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warned)
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            attention.ON_HOPPER, head.AT_ONCE, head.MOST_ROWS = before


def make_step(side: Side, size: Size, levers: Levers, device: torch.device) -> Step:
    """A side's training step over rows that it takes in turn."""
    if side == "ours":
        return engine_step(make_engine(size, levers, device), size, Rows(size), device)
    return loop_step(side, size, levers, device)


class Rows:
    """Micro-batches in pinned host memory, as a loader leaves them: (ids, targets) [rows, T]."""

    def __init__(self, size: Size, phrases: int | None = None) -> None:
        """`phrases`: rows are made of so many phrases, so that there is something to learn."""
        chance = torch.Generator().manual_seed(0)
        shape = (size.micro_batch, size.length + 1)
        self._micro: list[tuple[Tensor, Tensor]] = []
        words = 8
        book = torch.randint(size.vocab, (phrases or 1, words), generator=chance)
        for _ in range(4 * size.accumulation):
            if phrases is None:
                ids = torch.randint(size.vocab, shape, generator=chance)
            else:
                picks = torch.randint(phrases, (shape[0], -(-shape[1] // words)), generator=chance)
                ids = book[picks].flatten(1)[:, : shape[1]]
            pair = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
            self._micro.append((pair[0].pin_memory(), pair[1].pin_memory()) if _pins() else pair)
        self._at = 0

    def take(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The next micro-batches; after the last comes the first."""
        found = [self._micro[(self._at + i) % len(self._micro)] for i in range(count)]
        self._at += count
        return found


def _pins() -> bool:
    return torch.cuda.is_available()


def make_engine(size: Size, levers: Levers, device: torch.device) -> PlainEngine:
    """Our plain engine over the model, compiled as the lever says."""
    objective = Objective(our_model(size, levers, device), levers.precision)
    compile_model(objective, levers.compile)
    return PlainEngine(objective, OptimizerSettings(lr=LR), 1)


def engine_step(engine: PlainEngine, size: Size, rows: Rows, device: torch.device) -> Step:
    """As the training loop asks it of an engine."""
    scales = torch.full((len(engine.objective.model.terms),), 1 / size.tokens, device=device)
    weights = torch.ones(size.micro_batch, size.length, device=device)

    def step() -> float:
        total = torch.zeros(len(scales), dtype=torch.float64, device=device)
        for number, (ids, targets) in enumerate(rows.take(size.accumulation), 1):
            inputs = Inputs(ids, targets, weights).to(device)
            total += engine.accumulate(inputs, scales, last=number == size.accumulation)
        sums: list[float] = total.tolist()
        engine.norm()
        engine.step(LR)
        return sums[0] / size.tokens

    return step


def loop_step(side: Side, size: Size, levers: Levers, device: torch.device) -> Step:
    """A plain loop over our model or over that of transformers."""
    settings, rows = OptimizerSettings(lr=LR), Rows(size)
    model: Any
    if side == "bare":
        model = our_model(size, levers, device)
        objective = Objective(model, levers.precision)
        compile_model(objective, levers.compile)
    else:
        model = their_model(size, levers.compile, device)

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        if side == "bare":
            weights = torch.ones(ids.shape, device=device)
            return objective(Inputs(ids, targets, weights))[0] / ids.numel()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=levers.precision == "bf16"):
            return model(input_ids=ids, labels=ids, use_cache=False).loss

    optimizer = make_optimizer(model, settings)
    if not levers.fused:
        for group in optimizer.param_groups:
            group |= {"fused": False, "foreach": True}

    def step() -> float:
        total = torch.zeros((), device=device)
        for ids, targets in rows.take(size.accumulation):
            ids, targets = ids.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            loss = loss_of(ids, targets) / size.accumulation
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.item()

    return step


def our_model(size: Size, levers: Levers, device: torch.device) -> Model:
    """Our GPT with the same fresh weights each time."""
    model = copy.deepcopy(_fresh(size.settings, size.vocab))
    if levers.loss == "whole":
        model.__class__ = WholeLogits  # type: ignore[assignment]
    return model.to(device)


@lru_cache(1)
def _fresh(settings: ModelSettings, vocab: int) -> Model:
    return make_model(settings, vocab, 0)


def their_model(size: Size, how: Compile, device: torch.device) -> nn.Module:
    """GPT2LMHeadModel, compiled as ours is. ImportError where transformers is missing."""
    from benchmarks import model_pairs

    shape = model_pairs.Shape(
        size.layers, size.width, size.heads, size.vocab, size.micro_batch, size.length
    )  # fmt: skip
    with device:
        model = model_pairs.their_model("gpt2", shape)
    if how == "blocks":
        for block in model.transformer.h:  # type: ignore[union-attr]
            block.compile()  # type: ignore[operator]
    elif how == "whole":
        model.compile()
    return model
