"""The guard's rules: plain numbers in, plain numbers out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from cluster.errors import RunError
from llm.settings import PretrainSettings
from llm.train.checkpoints.layout import RunState
from llm.train.guard import (
    GuardState,
    after_applied,
    after_skipped,
    check_row,
    finite,
    is_spike,
    why_skip,
)
from llm.train.rewind import target_step
from llm.training_settings import GuardSettings

NAN, INF = math.nan, math.inf
SPIKES = GuardSettings(spike_sigma=3, window=8)


def after_steps(losses: list[float], settings: GuardSettings = SPIKES) -> GuardState:
    """After applied steps of these losses, with norms of a tenth."""
    state = GuardState()
    for step, loss in enumerate(losses, 1):
        state = after_applied(state, step, loss, loss / 10, settings)
    return state


@pytest.mark.parametrize(
    ("loss", "norm", "why"),
    [
        (NAN, 1.0, "loss"), (-INF, NAN, "loss"), (2.0, INF, "gradient"), (2.0, NAN, "gradient"),
        (1e30, 1e30, None),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_always_skipped(loss: float, norm: float, why: str | None) -> None:
    assert why_skip(loss, norm, after_steps([2.0, 2.1] * 8, GuardSettings()), GuardSettings()) == why


def test_spikes_of_loss_and_norm() -> None:
    """mean 2, deviation 0.1069 (torch's, with n - 1): 3 of them are 2.32."""
    state = after_steps([1.9, 2.1] * 4)
    assert torch.tensor(state.losses).std().item() * 3 == pytest.approx(0.3207, abs=1e-4)
    assert why_skip(2.32, 0.2, state, SPIKES) is None
    assert why_skip(2.33, 0.2, state, SPIKES) == "spike"
    assert why_skip(0.1, 0.2, state, SPIKES) is None  # far below is no harm
    assert why_skip(2.0, 0.232, state, SPIKES) is None
    assert why_skip(2.0, 0.233, state, SPIKES) == "spike"


def test_half_a_window_must_be_known() -> None:
    assert not is_spike(99.0, [1.0, 1.1, 1.0], 3, 8)
    assert is_spike(99.0, [1.0, 1.1, 1.0, 1.1], 3, 8)


def test_the_window_holds_the_last_applied_steps() -> None:
    state = after_steps([float(i) for i in range(1, 21)])
    assert state.losses == tuple(range(13, 21)) and state.last_applied == 20
    skipped = after_skipped(after_skipped(state, "loss"), "gradient")
    assert (skipped.losses, skipped.norms, skipped.last_applied) == (state.losses, state.norms, 20)
    assert (skipped.skipped, skipped.in_row) == (2, 2)
    again = after_applied(skipped, 23, 5.0, 0.5, SPIKES)
    assert (again.skipped, again.in_row, again.last_applied) == (2, 0, 23)
    assert after_steps([1.0, 2.0], GuardSettings()).losses == ()  # not looked at, not kept


def test_so_many_in_a_row_end_the_run() -> None:
    settings = PretrainSettings.model_validate({"guard": {"max_skips": 3}})
    state = GuardState(last_applied=4)
    for _ in range(3):
        check_row(state, settings, 7, (16, 28), "loss nan")
        state = after_skipped(state, "gradient")
    with pytest.raises(RunError, match=r"step 7: loss nan.* 3 steps in a row.*samples 16 to 27.* is 4,"):
        check_row(state, settings, 7, (16, 28), "loss nan")


def test_a_step_skipped_for_its_loss_scale_ends_no_run() -> None:
    state = after_skipped(GuardState(in_row=2, skipped=5), "loss scale")
    assert (state.in_row, state.skipped) == (2, 6)


def test_the_state_survives_its_checkpoint() -> None:
    guard = GuardState(3, 1, 9, (1.5, 0.1 + 0.2), (0.25, 1 / 3), ((3, 9), (12, 20)), 2)
    state = RunState(12, 48, 768, "id", guard=guard, loss_scale=2.0**14, loss_scale_steps=7)
    assert state.updates == 9
    assert RunState.from_json(json.loads(json.dumps(asdict(state)))) == state
    old = {name: value for name, value in asdict(state).items() if name != "guard"}
    assert RunState.from_json(old).guard == GuardState(), "checkpoints from before the guard load"
    with pytest.raises(TypeError):
        RunState.from_json(asdict(state) | {"guard": {"skiped": 1}})


def test_lines_are_json() -> None:
    values: dict[str, Any] = finite({"loss": NAN, "grad_norm": -INF, "lr": 0.5, "skipped": "loss", "step": 3})
    assert json.dumps(values, allow_nan=False) == (
        '{"loss": null, "grad_norm": null, "lr": 0.5, "skipped": "loss", "step": 3}'
    )


@pytest.mark.parametrize(
    ("spike", "rewind_steps", "saved", "target"),
    [
        (17, 2, [5, 10, 15], 15),  # before the range, and the newest of those
        (17, 3, [5, 10, 15], 10),
        (17, 0, [5, 10, 15, 17], 17),
        (17, 99, [5, 10, 15], 5),  # none before the range: the oldest, and the range begins there
        (3, 2, [], None),
        (3, 2, [5, 10], None),  # of later steps, damaged, and passed over at the start
    ],
)
def test_where_a_rewind_goes(spike: int, rewind_steps: int, saved: list[int], target: int | None) -> None:
    assert target_step(spike, rewind_steps, saved) == target
