"""Schedules: plain numbers in, plain numbers out; torch's own schedulers are the truth where it has one."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from llm.train.schedule import learning_rate
from llm.training_settings import ScheduleSettings


def rates(steps: int, **settings: Any) -> list[float]:
    schedule = ScheduleSettings(**settings)
    return [learning_rate(step, steps, 2.0, schedule) for step in range(steps)]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_is_linear_and_the_end_is_reached(kind: str) -> None:
    found = rates(100, kind=kind, warmup_steps=10, final=0.1)
    assert found[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(found) <= 2.0 + 1e-12
    assert found[-1] == pytest.approx(2.0 if kind == "constant" else 0.2)
    assert all(a >= b - 1e-12 for a, b in pairwise(found[9:]))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_equal_to_torch(kind: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    scheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.2)
        if kind == "cosine"
        else torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 50)
    )
    for found in rates(50, kind=kind, warmup_steps=0, final=0.1):
        optimizer.step()
        scheduler.step()
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)


def test_wsd_is_flat_until_its_decay() -> None:
    found = rates(100, kind="wsd", warmup_steps=10, decay_steps=20, final=0.0)
    assert found[10:80] == [2.0] * 70
    assert found[80:] == pytest.approx([2.0 * (1 - (i + 1) / 20) for i in range(20)])
    default = rates(100, kind="wsd", warmup_steps=0, final=0.5)  # decays over a fifth
    assert default[79:81] == pytest.approx([2.0, 2.0 * (1 - 0.5 / 20)])


def test_wsd_by_the_root() -> None:
    found = rates(100, kind="wsd", warmup_steps=0, decay_steps=20, final=0.0, decay_shape="sqrt")
    assert found[79] == 2.0
    assert found[80:] == pytest.approx([2.0 * (1 - math.sqrt((i + 1) / 20)) for i in range(20)])


def test_inverse_square_root_is_that_of_the_transformer() -> None:
    """d^-0.5 min(s^-0.5, s w^-1.5) of Vaswani et al. 2017, equation 3, in units of its peak."""
    found = rates(400, kind="inverse_sqrt", warmup_steps=16, final=0.0)
    wanted = [2.0 * 16**0.5 * min(s**-0.5, s * 16**-1.5) for s in range(1, 401)]
    assert found == pytest.approx(wanted)
    assert min(rates(400, kind="inverse_sqrt", warmup_steps=1, final=0.2)) == pytest.approx(0.4)


def test_a_warm_up_that_is_not_given() -> None:
    assert [ScheduleSettings().warmup(n) for n in (5, 50, 1000, 9999)] == [0, 5, 100, 100]
    assert ScheduleSettings(warmup_steps=0).warmup(50) == 0


def test_shares_of_all_steps() -> None:
    share = ScheduleSettings(kind="wsd", warmup_steps=0.1, decay_steps=0.5)
    assert (share.warmup(50), share.decay(50)) == (5, 25)
    assert (share.warmup(1), share.decay(1)) == (0, 0)
    with pytest.raises(ValidationError, match="a number of steps is whole"):
        ScheduleSettings(warmup_steps=2.5)


@pytest.mark.parametrize(
    ("steps", "given", "words"),
    [
        (50, {"warmup_steps": 50}, r"warmup_steps \(50\) ends after the run \(steps 50\)"),
        (50, {"kind": "wsd", "warmup_steps": 20, "decay_steps": 40}, "more than steps \\(50\\)"),
        (50, {"kind": "cosine", "decay_steps": 10}, "decay_steps is for wsd, schedule.kind is cosine"),
    ],
)
def test_a_schedule_that_does_not_fit(steps: int, given: dict[str, Any], words: str) -> None:
    problem = ScheduleSettings.model_validate(given).problem(steps)
    assert problem is not None and re.search(words, problem), problem
    assert ScheduleSettings().problem(1000) is None
    assert ScheduleSettings().problem(1) is None


def test_half_way_of_the_cosine() -> None:
    found = learning_rate(49, 100, 1.0, ScheduleSettings(kind="cosine", warmup_steps=0, final=0.0))
    assert found == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
