"""What W&B costs a training at its worst: tokens/s beside the same training without W&B.

The real command in one process, each step logged. The server is one on this machine that refuses, answers 500
or never answers, so the run is opened in vain and then kept offline while the clock runs. Runs take turns,
in each round the one without W&B first, so that a machine whose speed drifts gives all the same. Losses must
be equal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.ground import Ground
from benchmarks.machine import cores
from benchmarks.process import run_module
from benchmarks.rows import Row
from benchmarks.train import NO_RAY, WARM_UP, Pair, rate_of, timed_steps, tokens_of_step
from benchmarks.wandb_server import USELESS, useless_server
from cluster.errors import RunError
from llm.train.run_folder import read_metrics

GOAL = "ratio >= 0.98"
PEER = "the same without W&B"
ROUNDS = 5  # odd: the median pair is a measured one


def run(ground: Ground) -> list[Row]:
    """A row for each kind of server."""
    steps = timed_steps(ground, ground.pretrain.precision)
    pairs: dict[str, list[Pair]] = {kind: [] for kind in USELESS}
    for number in range(1 if ground.quick else ROUNDS):
        alone, losses = train(ground, steps, "disabled")
        for kind in USELESS:
            with useless_server(kind) as environment, _environment(environment):
                rate, found = train(ground, steps, "online")
            if found != losses:
                raise RunError(f"with a W&B server that {kind} the losses are others")
            pairs[kind].append(Pair(rate, alone))
            ground.say(f"tracking {number + 1}, a server that {kind}: {rate:,.0f}, without {alone:,.0f}")
    return [row_of(kind, steps, found) for kind, found in pairs.items()]


def row_of(kind: str, steps: int, pairs: Sequence[Pair]) -> Row:
    """The pair with the median ratio."""
    middle = sorted(pairs, key=lambda pair: pair.ratio)[len(pairs) // 2]
    note = (
        f"{cores()} threads, {steps} timed steps a run, losses equal to the bit; ratios of {len(pairs)} "
        f"rounds " + " ".join(f"{pair.ratio:.3f}" for pair in pairs)
    )
    return Row(
        f"training with a W&B server that {kind}", "tokens/s", middle.ours, middle.peer, PEER, GOAL, note
    )  # fmt: skip


def train(ground: Ground, steps: int, mode: str) -> tuple[float, list[Any]]:
    """Tokens/s over `steps` steps after the warm-up, and the losses."""
    out, all_steps = ground.fresh("run"), str(WARM_UP + steps)
    run_module(
        ground.log(), "llm.pretrain", ground.recipe_path, *NO_RAY,
        "--pretrain.corpus", str(ground.corpus.path), "--pretrain.out", str(out), "--pretrain.workers", "1",
        "--pretrain.cpus_per_worker", str(cores()), "--pretrain.steps", all_steps,
        "--pretrain.checkpoint.every", all_steps, "--pretrain.log_every", "1",
        "--pretrain.validation.every", "0", "--pretrain.samples.every", "0",
        "--pretrain.samples.prompts", "[]", "--pretrain.wandb.mode", mode,
    )  # fmt: skip
    rows = read_metrics(out)
    rate = rate_of({row["step"]: row["time"] for row in rows}, steps, tokens_of_step(ground))
    return rate, [row.get("loss") for row in rows]


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
