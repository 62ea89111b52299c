"""Our training in one process beside transformers' Trainer: the same GPT-2, data, batch, precision, threads.

Ours is the real `python -m llm.pretrain` with the plain engine: loader, guard, each step in metrics.jsonl.
The Trainer is trainer_peer.py. Both are processes of their own that take turns; the clock runs from the end
of the last warm-up step to the end of the last step, and neither saves or validates in between.
"""

from __future__ import annotations

import importlib.util
import json

from benchmarks import train
from benchmarks.ground import Ground
from benchmarks.machine import cores
from benchmarks.process import run_module
from benchmarks.rows import Row
from benchmarks.train import NO_RAY, WARM_UP, Pair

PEER = "transformers' Trainer, GPT2LMHeadModel"
NEEDED = ("transformers", "accelerate")  # what a Trainer is made of
GOALS = {"eager": "ratio >= 1.15", "compiled": "ratio >= 1.1"}
COMPILED = "blocks"  # the Trainer compiles the whole model; on CPUs ours is no faster that way
SECONDS = 15.0  # of timed steps in each run


def run(ground: Ground) -> list[Row]:
    """A row for each precision, eager and compiled."""
    small = ground.small
    if small.quick:
        return [trainer_row(small, "fp32", "eager")]
    return [trainer_row(small, precision, mode) for mode in GOALS for precision in ("fp32", "bf16")]


def trainer_row(ground: Ground, precision: str, mode: str) -> Row:
    """Pairs in turn; the row is the pair with the median ratio."""
    what = f"beside the Trainer, {mode}"
    steps = 4 if ground.quick else round(train.timed_steps(ground, precision) * SECONDS / train.SECONDS)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        rate, _ = ours(ground, precision, mode, steps)
        note = f"{', '.join(missing)}: not installed (the bench extra has them)"
        return Row(
            f"training, {what}, {precision}", "tokens/s", rate, None, PEER, GOALS[mode], note
        )  # fmt: skip
    pairs = []
    for number in range(1 if ground.quick else train.PAIRS):
        rate, detail = ours(ground, precision, mode, steps)
        pairs.append(Pair(rate, peer(ground, precision, mode, steps), detail))
        ground.say(f"trainer {mode} {precision} {number + 1}: {rate:,.0f}, {pairs[-1].ratio:.3f}")
    return train.row_of(ground, precision, steps, pairs, what, GOALS[mode], PEER)


def ours(ground: Ground, precision: str, mode: str, steps: int) -> tuple[float, str]:
    """Tokens/s of the plain engine in one process, and where its time went. Neither side has a tracker."""
    compiled = () if mode == "eager" else ("--pretrain.compile", COMPILED)
    return train.ours(
        ground, precision, steps, (*NO_RAY, "--pretrain.wandb.mode", "disabled", *compiled)
    )  # fmt: skip


def peer(ground: Ground, precision: str, mode: str, steps: int) -> float:
    """Tokens/s of the Trainer."""
    out = ground.fresh("trainer")
    run_module(
        ground.log(), "benchmarks.trainer_peer", ground.recipe_path, "--tokens", str(ground.tokens),
        "--vocab", str(ground.corpus.tokenizer.vocab_size), "--steps", str(WARM_UP + steps),
        "--precision", precision, "--threads", str(cores()), "--out", str(out),
        *(("--compile",) if mode == "compiled" else ()),
    )  # fmt: skip
    times = json.loads(out.read_bytes())
    return train.rate_of(dict(enumerate(times, 1)), steps, train.tokens_of_step(ground))
