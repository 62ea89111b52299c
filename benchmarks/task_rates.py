"""Fine-tuning in one process: what adapters cost beside training all weights, evaluation beside training."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.ground import Ground
from benchmarks.rows import Row
from llm.finetune_settings import FinetuneSettings, LoraSettings
from llm.model.inputs import Inputs
from llm.model.task_model import Head
from llm.model.tasks import choose_trainable, make_task_model
from llm.settings import ModelSettings
from llm.train.engine import WEIGHT
from llm.train.objective import Objective
from llm.train.plain import PlainEngine

PAIRS, STEPS = 7, 6
CLASSES, RANK = 4, 8
SHAPE = {"layers": 6, "width": 256, "heads": 4, "context": 256}
VOCAB, ROWS, LENGTH = 8192, 16, 128


def rows(ground: Ground) -> list[Row]:
    """Optimizer states, training rates in turn, evaluation against training; of a GPT and a BERT."""
    found = []
    for kind in ("bert", "gpt"):
        ground.say(f"tasks: a {kind} with and without adapters, training and evaluation in turn")
        found += _rows_of(kind, ground.quick)
    return found


def _rows_of(kind: str, quick: bool) -> list[Row]:
    shape: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "context": 256} if quick else SHAPE
    settings = ModelSettings.model_validate({"kind": kind, **shape})
    full, adapted = (_engine(settings, rank) for rank in (0, RANK))
    batch = _batch(kind)
    turns = [
        (_rate(_steps(full, batch)), _rate(_steps(adapted, batch)), _rate(_evaluations(full, batch)))
        for _ in range(2 if quick else PAIRS)
    ][1:]  # the first warms up
    memory, whole = _states(adapted), _states(full)
    what = f"{kind}, {shape['layers']} layers, width {shape['width']}, {CLASSES} classes, {ROWS} x {LENGTH}"
    name = f"LoRA of rank {RANK} on q and v"
    lora = _median(turns, lambda turn: turn[1] / turn[0])
    seen = _median(turns, lambda turn: turn[2] / turn[0])
    return [
        Row(
            f"optimizer states, {name}, {kind}", "bytes", memory, whole, "every weight trained",
            "ratio <= 0.05", f"{what}; AdamW",
        ),
        Row(
            f"training, {name}, {kind}", "tokens/s", lora[1], lora[0], "every weight trained", "ratio >= 1",
            _note(what, turns, lambda turn: turn[1] / turn[0]),
        ),
        Row(
            f"evaluation of a classification, {kind}", "tokens/s", seen[2], seen[0], "its training",
            "ratio >= 2", _note(what, turns, lambda turn: turn[2] / turn[0]),
        ),
    ]  # fmt: skip


Turn = tuple[float, float, float]  # tokens/s: every weight trained, adapters trained, evaluated


def _median(turns: list[Turn], ratio: Callable[[Turn], float]) -> Turn:
    return sorted(turns, key=ratio)[len(turns) // 2]


def _note(what: str, turns: list[Turn], ratio: Callable[[Turn], float]) -> str:
    shown = " ".join(f"{ratio(turn):.3f}" for turn in turns)
    return f"{what}; plain engine, one process, fp32; the turn with the median ratio; ratios {shown}"


def _engine(settings: ModelSettings, rank: int) -> PlainEngine:
    finetune = FinetuneSettings(lora=LoraSettings(rank=rank))
    head = Head("classification", CLASSES, "cross_entropy", 0.0)
    model = make_task_model(settings, VOCAB, head, 0, finetune.lora if rank else None)
    choose_trainable(model, finetune)
    return PlainEngine(Objective(model, "fp32"), finetune.optimizer, 1)


def _batch(kind: str) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=draw)
    targets = torch.randint(0, CLASSES, (ROWS, 1), generator=draw)
    last = torch.full((ROWS, 1), LENGTH - 1) if kind == "gpt" else None
    documents = torch.zeros_like(ids)
    documents[:, -LENGTH // 8 :] = 1  # padding
    return Inputs(ids, targets, torch.ones(ROWS, 1), last, documents, torch.zeros_like(ids))


def _steps(engine: PlainEngine, batch: Inputs) -> Callable[[], None]:
    scales = torch.tensor([1 / ROWS])

    def step() -> None:
        engine.accumulate(batch, scales, last=True)
        engine.norm()
        engine.step(1e-5)

    return step


def _evaluations(engine: PlainEngine, batch: Inputs) -> Callable[[], None]:
    def evaluate() -> None:
        engine.forward(batch, "outputs")

    return evaluate


def _rate(work: Callable[[], None]) -> float:
    """Tokens/s, the median of some runs."""
    gc.collect()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return ROWS * LENGTH / statistics.median(times)


def _states(engine: PlainEngine) -> int:
    """Bytes of what the optimizer keeps."""
    return sum(f.values.numel() * f.values.element_size() for f in engine.held() if f.state != WEIGHT)
