from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data.batches import BatchPlan, affinity_order, micro_steps, padding, worker_slice
from tests.llm.data import reference


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    steps = draw(st.lists(st.integers(1, 20), max_size=4, unique=True).map(sorted))
    schedule = [(step, draw(st.integers(1, 9))) for step in [0, *steps]]
    skips, at = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 15)), max_size=5)):
        skips.append((at + gap, at + gap + length))
        at += gap + length
    return schedule, skips


@given(plans())
def test_closed_form_equals_enumeration(case: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    schedule, skips = case
    plan = BatchPlan(schedule, skips)
    assert plan.next_number(0) == 0
    everything = []
    for step, (numbers, n) in enumerate(islice(reference.batches(schedule, skips), 30)):
        assert plan.numbers(step).tolist() == numbers
        assert plan.batch_size(step) == len(numbers)
        assert plan.next_number(step + 1) == n
        everything += numbers
        assert plan.taken(step + 1) == len(everything)
    assert plan.numbers(0, 30).tolist() == everything


def test_a_skip_from_here_on_keeps_n() -> None:
    before, after = BatchPlan([(0, 10)]), BatchPlan([(0, 10)], [(30, 50)])
    assert before.next_number(3) == after.next_number(3) == 30
    assert after.numbers(3).tolist() == list(range(50, 60))
    assert BatchPlan([(0, 10)], [(29, 50)]).next_number(3) != 30  # the past was changed, and it shows


def test_far_steps_cost_nothing() -> None:
    plan = BatchPlan([(0, 512), (10**6, 4096)], [(10**9, 10**9 + 5)])
    assert plan.numbers(10**12)[0] == 10**6 * 512 + (10**12 - 10**6) * 4096 + 5


@given(st.integers(1, 500), st.integers(1, 70), st.integers(1, 9))
def test_slices_cut_a_batch_whole(size: int, world: int, micro: int) -> None:
    items = list(range(size))
    parts = [items[worker_slice(size, rank, world)] for rank in range(world)]
    assert list(chain(*parts)) == items
    steps = micro_steps(size, world, micro)
    largest = max(len(part) for part in parts)
    assert largest - min(len(part) for part in parts) <= 1
    assert (steps - 1) * micro < largest <= steps * micro
    assert padding(size, world, micro) == pytest.approx(1 - size / (steps * micro * world))


def test_affinity() -> None:
    rng = np.random.default_rng(0)
    numbers, positions = np.arange(1_000, 1_064), rng.permutation(64)
    assert affinity_order(positions, numbers, 1).tolist() == list(range(64))
    order = affinity_order(positions, numbers, 4)
    pairs = [(int(positions[i]) % 4, int(numbers[i])) for i in order]
    assert pairs == sorted(pairs) and sorted(order.tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("schedule", "skips", "groups", "message"),
    [
        ([], [], 1, "begin at step 0"),
        ([(1, 8)], [], 1, "begin at step 0"),
        ([(0, 8), (5, 9), (5, 10)], [], 1, "5 comes after 5"),
        ([(0, 8), (5, 0)], [], 1, "batch of 0 samples from step 5"),
        ([(0, 8)], [(5, 5)], 1, r"\[5, 5\) is empty"),
        ([(0, 8)], [(-1, 5)], 1, "negative"),
        ([(0, 8)], [(10, 20), (15, 30)], 1, "begins at 15 before 20"),
        ([(0, 8)], [(10, 20), (1, 2)], 1, "begins at 1 before 20"),
        ([(0, 8)], [], 0, "groups of workers"),
    ],
)
def test_wrong_plans_are_refused(
    schedule: list[tuple[int, int]], skips: list[tuple[int, int]], groups: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        BatchPlan(schedule, skips, groups)


def test_all_problems_at_once() -> None:
    with pytest.raises(UserError, match=r"begin at step 0.*at least 1.*is empty"):
        BatchPlan([(3, 0)], [(2, 2)])


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    plan = BatchPlan([(0, 8), (100, 4)])
    plan.check_world(4)
    with pytest.raises(UserError, match=r"batch of 4 samples \(from step 100\) for 5 workers"):
        plan.check_world(5)
