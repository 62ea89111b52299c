"""The training loop: one screen, the same for every engine and any number of workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from cluster.fault_points import Where, fault_factor, fault_point
from data_jobs.hashes import h64
from llm.data.batches import BatchPlan
from llm.data.loader import BatchLoader
from llm.data.ranges import ranges_of
from llm.data.samples import Batch
from llm.run_settings import RunSettings
from llm.tasks.inputs import inputs_of
from llm.train.best import after_score, is_over
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.engine import Engine
from llm.train.group import Group, join_digest, split_digest
from llm.train.guard import GuardState, after_applied, after_skipped, check_row, why_skip
from llm.train.loss_scale import after_step, is_overflow
from llm.train.rewind import plan_of
from llm.train.schedule import learning_rate
from llm.train.step_clock import StepClock
from llm.train.validations import is_due, most_samples


@dataclass
class Parts:
    """What the loop works with, assembled by worker.py."""

    settings: RunSettings
    group: Group
    engine: Engine
    loader: BatchLoader
    saver: CheckpointSaver
    clock: StepClock
    log: Callable[[dict[str, Any]], None]
    validate: Callable[[int, int | None], dict[str, Any]]
    """Of a step, with so many samples or all: its numbers, or where they will be found."""
    write_samples: Callable[[int], None]
    stop_wanted: Callable[[], bool]
    noticed: Callable[[], bool]
    beat: Callable[[], None]
    on_commit: Callable[[int], None]
    rewind: Callable[[RunState, BatchPlan, str], RunState | None]
    """After a spike: the state to go on from; None: the step is skipped instead."""
    score: Callable[[dict[str, Any]], float | None] = lambda found: found.get("val_loss")
    """What checkpoints are compared by, of a validation's numbers: the lowest is best."""
    patience: int | None = None
    """Validations in a row without a better score after which the training ends."""
    least_gain: float = 0.0
    """By how much a score must be better to count."""


@dataclass(frozen=True)
class StepSums:
    """What the workers add up in each step's one exchange."""

    norm: float  # of the gradient, as the first worker has it; not finite where any worker's is not
    losses: dict[str, float]  # of each term of the loss its mean over the batch
    loss: float  # what the model is trained for: their sum, without the z-loss
    digest: int
    stop: bool
    save: bool  # some worker's machine goes
    committed_step: int


def train(parts: Parts, state: RunState) -> tuple[RunState, dict[str, Any]]:
    """Train from `state` to the last step, or until a stop is wanted; the last logged values."""
    settings, clock, values = parts.settings, parts.clock, dict[str, Any]()
    seen_commit, save_wanted, notes = -1, False, dict[str, Any]()
    if state.step == 0:
        values = {"step": 0, "time": time.time(), **parts.validate(0, settings.validation.max_samples)}
        parts.log(values)
    clock.restart()
    # One that ended early, and was stopped before it said so, has nothing to do.
    end = state.step if is_over(state.best, parts.patience) else settings.steps
    with parts.loader.iterate(state.step, end) as batches:
        for batch in batches:
            fault_point("train.step", step=batch.step + 1, rank=parts.group.rank, sample=batch.numbers)
            parts.engine.loss_scale = state.loss_scale
            counts = _count(parts, batch)
            sums = _exchange(parts, batch, counts, _accumulate(parts, batch, counts), parts.engine.norm())
            save_wanted |= sums.save
            overflow = is_overflow(sums.loss, sums.norm, state.loss_scale, settings)
            why = "loss scale" if overflow else why_skip(sums.loss, sums.norm, state.guard, settings.guard)
            told = f"loss {sums.loss:.4g}, gradient norm {sums.norm:.4g}"
            if why == "spike" and (back := parts.rewind(state, parts.loader.plan, f"a spike ({told})")):
                notes = {"rewound_from": batch.step + 1, "left_out": back.guard.left_out}
                state, seen_commit = back, back.step
                parts.loader.restart(batches, state.step, plan_of(settings, state.guard.left_out))
                parts.beat()
                clock.restart()
                continue
            rate = learning_rate(batch.step, settings.steps, settings.optimizer.lr, settings.schedule)
            if why is None:
                parts.engine.step(rate)
                guard = after_applied(state.guard, batch.step + 1, sums.loss, sums.norm, settings.guard)
            else:
                parts.engine.skip()
                guard = after_skipped(state.guard, why)
                notes |= {"skipped": why, "skipped_samples": ranges_of(batch.numbers)}
            scale = state.loss_scale
            state = _after(state, batch, parts, guard, overflow, int(counts["cells"]))
            values = {
                "loss": sums.loss,
                **(sums.losses if len(sums.losses) > 1 else {}),
                "lr": rate,
                "grad_norm": sums.norm,
                **({"loss_scale": scale} if settings.precision == "fp16" else {}),
                "sample_digest": f"{sums.digest:016x}",
                **notes,
            }
            values = {"step": state.step, "time": time.time()} | values | clock.lap(state, counts["cells"])
            parts.beat()
            if sums.committed_step > seen_commit:
                seen_commit = sums.committed_step
                parts.on_commit(seen_commit)
            found = _look(parts, state)
            score = _agreed(parts, parts.score(found))
            if score is not None and parts.patience is not None:
                state = replace(state, best=after_score(state.best, state.step, score, parts.least_gain))
            ends = is_over(state.best, parts.patience)
            if ends and is_due(state.step, settings) and settings.validation.max_samples is not None:
                found |= parts.validate(state.step, None)
            values |= found
            last = sums.stop or ends or state.step == settings.steps
            saves = last or save_wanted or state.step % settings.checkpoint.every == 0
            logs = bool(saves or notes or state.step % settings.log_every == 0)  # alike on all workers
            if logs:
                values |= clock.memory()
            if logs or found:
                parts.log(values)
            if why is not None:
                begin = int(parts.loader.plan.numbers(guard.last_applied)[0])
                check_row(guard, settings, state.step, (begin, state.next_number), told)
            notes = {}
            # Saved after it is logged: whoever resumes from this checkpoint finds its line.
            if saves:
                parts.saver.save(state, found.get("val_loss"), score)
                save_wanted = False
                parts.beat()
            clock.restart()
            if last:
                break
    parts.saver.finish()
    if (
        parts.group.agree(parts.group.rank > 0 or parts.saver.committed_step > seen_commit)
        and state.step > seen_commit
    ):
        parts.on_commit(state.step)
    return state, values


def _after(
    state: RunState, batch: Batch, parts: Parts, guard: GuardState, overflow: bool, cells: int
) -> RunState:
    """The run's state after a step on this batch, which was skipped where its loss scale was too large.

    `cells`: tokens of the batch's rows, over all workers.
    """
    settings = parts.settings
    scale = state.loss_scale, state.loss_scale_steps
    if settings.precision == "fp16":
        scale = after_step(*scale, overflow, settings.loss_scale)
    return replace(
        state,
        step=batch.step + 1,
        next_number=batch.next_number,
        tokens=state.tokens + cells,
        guard=guard,
        loss_scale=scale[0],
        loss_scale_steps=scale[1],
    )


def _count(parts: Parts, batch: Batch) -> dict[str, float]:
    """Of the whole batch: weights of targets and of pairs, by which terms of the loss are divided, and tokens
    of its rows."""
    tokens, pairs, cells = parts.group.sum([batch.tokens, batch.pairs, batch.cells])
    return {"tokens": tokens, "pairs": pairs, "cells": cells}


def _accumulate(parts: Parts, batch: Batch, counts: dict[str, float]) -> list[float]:
    """Gradients of sums over real tokens / the batch's real tokens; returns this worker's sums by term."""
    units = parts.engine.objective.model.terms.values()
    scales = torch.tensor(
        [1 / counts[unit] if counts[unit] else 0.0 for unit in units], device=parts.group.device
    )
    total = torch.zeros(len(scales), dtype=torch.float64, device=parts.group.device)
    for i, micro in enumerate(batch.micro):
        # Dropout is the one thing here that draws: equal to the bit for the same layout of workers.
        torch.manual_seed(h64(parts.settings.seed, "dropout", batch.step, int(micro.numbers[0])) >> 1)
        inputs = inputs_of(micro, parts.group.device)
        where: dict[str, Where] = {"step": batch.step + 1, "rank": parts.group.rank, "sample": micro.numbers}
        wrong_loss, wrong_gradient = (fault_factor(f"train.{x}", **where) for x in ("loss", "gradient"))
        spoiled = scales * (wrong_loss * wrong_gradient)
        total += wrong_loss * parts.engine.accumulate(inputs, spoiled, last=i == len(batch.micro) - 1)
    return total.tolist()


def _exchange(
    parts: Parts, batch: Batch, counts: dict[str, float], sums: list[float], norm: float
) -> StepSums:
    first = parts.group.rank == 0
    norm, stop, save, committed, *rest = parts.group.sum(
        [
            norm if first or not math.isfinite(norm) else 0.0,
            float(first and parts.stop_wanted()),
            float(parts.noticed()),
            float(parts.saver.committed_step + 1 if first else 0),
            *split_digest(batch.digest),
            *sums,
        ]
    )
    terms = parts.engine.objective.model.terms
    losses = {
        name: total / counts[unit]
        for (name, unit), total in zip(terms.items(), rest[4:], strict=True)
        if counts[unit] and (name != "z_loss" or parts.engine.objective.z_loss)
    }
    loss = sum(value for name, value in losses.items() if name != "z_loss")
    return StepSums(norm, losses, loss, join_digest(rest[:4]), stop > 0, save > 0, int(committed) - 1)


def _agreed(parts: Parts, score: float | None) -> float | None:
    """The first worker's: what ends a training must be equal to the bit on machines that are not."""
    if score is None or not math.isfinite(score):
        return None
    return parts.group.sum([score if parts.group.rank == 0 else 0.0])[0]


def _look(parts: Parts, state: RunState) -> dict[str, Any]:
    """Validation and samples where they are due; what validation found."""
    settings, found = parts.settings, dict[str, Any]()
    last = state.step == settings.steps
    if is_due(state.step, settings):
        found = parts.validate(state.step, most_samples(state.step, settings))
    if last or (settings.samples.every and state.step % settings.samples.every == 0):
        parts.write_samples(state.step)
    return found
