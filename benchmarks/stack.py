"""The whole stack around a model of 6.9 M parameters beside a bare loop; two workers beside one.

The real command each time (see train.py): Ray Train, DeepSpeed ZeRO-1, the loader, each step logged to
metrics.jsonl and W&B; then the same with the plain engine in one process, without Ray. All take turns, so
that a machine whose speed drifts gives each the same.
"""

from __future__ import annotations

import statistics

from benchmarks import train
from benchmarks.ground import Ground
from benchmarks.rows import Row
from benchmarks.train import NO_RAY, Pair

GOAL = "ratio >= 0.97"
WORKERS_GOAL = "ratio >= 1.8"


def run(ground: Ground) -> list[Row]:
    """The stack and the plain engine beside a bare loop; two workers. A quick run starts no Ray."""
    small = ground.small
    rows = stack_rows(small)
    return rows if small.quick else [*rows, workers_row(small), machine_row(small)]


def stack_rows(ground: Ground) -> list[Row]:
    """Each turn is a run of the stack, one of the bare loop and one of the plain engine."""
    precision = ground.pretrain.precision
    steps = train.timed_steps(ground, precision)
    stack, plain = list[Pair](), list[Pair]()
    for number in range(1 if ground.quick else train.PAIRS):
        rate, detail = train.ours(ground, precision, steps, NO_RAY if ground.quick else ())
        bare = train.peer(ground, precision, steps)
        stack.append(Pair(rate, bare, detail))
        alone, where = train.ours(ground, precision, steps, NO_RAY)
        plain.append(Pair(alone, bare, where))
        ground.say(
            f"stack {number + 1}: {rate:,.0f}, plain {alone:,.0f}, bare {bare:,.0f}: "
            f"{stack[-1].ratio:.3f}, {plain[-1].ratio:.3f}"
        )
    of = "6.9 M parameters"
    return [
        train.row_of(ground, precision, steps, stack, f"whole stack, {of}, 1 worker", GOAL),
        train.row_of(ground, precision, steps, plain, f"plain engine, {of}, one process", GOAL),
    ]


def workers_row(ground: Ground) -> Row:
    """Two workers with a core each beside one worker with one core; the batch is the same."""
    precision = ground.pretrain.precision
    steps = max(10, train.timed_steps(ground, precision) // 2)  # on one core a step takes twice as long
    pairs = []
    for number in range(train.PAIRS):
        two, detail = train.ours(ground, precision, steps, workers=2, cpus=1)
        one, _ = train.ours(ground, precision, steps, workers=1, cpus=1)
        pairs.append(Pair(two, one, detail))
        ground.say(f"workers {number + 1}: two {two:,.0f}, one {one:,.0f}, {pairs[-1].ratio:.3f}")
    median = sorted(pairs, key=lambda pair: pair.ratio)[len(pairs) // 2]
    note = (
        f"{ground.recipe.name} recipe, 6.9 M parameters, batch {ground.pretrain.batch}, whole stack on Ray, "
        f"ZeRO-1, one thread a worker, {steps} timed steps a run; the pair with the median ratio of "
        f"{len(pairs)} in turn; ratios {' '.join(f'{pair.ratio:.3f}' for pair in pairs)}; medians "
        f"{statistics.median(p.ours for p in pairs):.0f} and {statistics.median(p.peer for p in pairs):.0f}; "
        f"{median.detail}"
    )
    return Row(
        f"training, two workers with a core each, {precision}", "tokens/s", median.ours, median.peer,
        "one worker with one core", WORKERS_GOAL, note,
    )  # fmt: skip


def machine_row(ground: Ground) -> Row:
    """What the machine's second core gives: two bare loops at once, which share nothing, beside one.

    No goal: the row says how much of the workers' ratio is the machine's. Each loop has half of the batch,
    as each worker has.
    """
    precision, batch = ground.pretrain.precision, ground.pretrain.batch
    steps = max(10, train.timed_steps(ground, precision) // 2)
    pairs = []
    for number in range(train.PAIRS):
        two = sum(train.bare_loops(ground, precision, steps, 2, batch // 2))
        [one] = train.bare_loops(ground, precision, steps, 1, batch)
        pairs.append(Pair(two, one))
        ground.say(f"machine {number + 1}: two {two:,.0f}, one {one:,.0f}, {pairs[-1].ratio:.3f}")
    median = sorted(pairs, key=lambda pair: pair.ratio)[len(pairs) // 2]
    note = (
        f"one thread a loop, {steps} timed steps a run; the pair with the median ratio of {len(pairs)} in "
        f"turn; ratios {' '.join(f'{pair.ratio:.3f}' for pair in pairs)}"
    )
    return Row(
        f"two bare loops at once, half the batch each, {precision}", "tokens/s", median.ours, median.peer,
        "one bare loop on one core", note=note,
    )  # fmt: skip
