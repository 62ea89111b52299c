"""Settings that exclude each other, and how many workers: one number, or bounds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llm.settings import PretrainSettings


def settings(**values: Any) -> PretrainSettings:
    return PretrainSettings.model_validate({"batch": 8} | values)


@pytest.mark.parametrize(
    ("given", "fewest", "most"), [(2, 2, 2), ({"min": 1, "max": 8}, 1, 8), ({"max": 3}, 1, 3)]
)
def test_workers(given: Any, fewest: int, most: int) -> None:
    found = settings(workers=given)
    assert (found.workers.min, found.workers.max, found.workers.elastic) == (fewest, most, fewest < most)
    assert PretrainSettings.model_validate(found.model_dump(mode="json")) == found, "as a run folder keeps it"


def test_one_number_is_kept_as_one() -> None:
    assert settings(workers=2).model_dump(mode="json")["workers"] == 2
    assert settings(workers={"min": 1, "max": 2}).model_dump()["workers"] == {"min": 1, "max": 2}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "must be at least 1 worker"),
        ({"workers": True}, "a number of workers, or"),
        ({"workers": "two"}, "a number of workers, or"),
        ({"workers": {"min": 3, "max": 2}}, r"min \(3\) is above max \(2\)"),
        ({"workers": {"min": 1, "max": 9}}, r"batch \(8\) is smaller than workers \(9\)"),
        ({"workers": {"least": 1, "max": 2}}, "least"),
        ({"workers": {"min": 2, "max": 3}, "launch": "here"}, "launch 'here' runs one worker"),
        ({"offload": {"optimizer": "cpu"}, "zero_stage": 0}, "offload.optimizer needs .* zero_stage 1"),
        ({"offload": {"parameters": "cpu"}, "zero_stage": 2}, "offload.parameters needs .* zero_stage 3"),
        ({"offload": {"optimizer": "cpu"}, "engine": "plain"}, "engine is plain"),
        ({"validation": {"where": "workers"}, "launch": "here"}, "needs Ray, and launch is 'here'"),
        (
            {"validation": {"where": "workers", "every": 30}, "checkpoint": {"every": 20}},
            r"validation.every \(30\) must be a multiple of checkpoint.every \(20\)",
        ),
        ({"offload": {"optimizer": "nvme"}}, "nvme is not supported: .*async_io"),
        ({"precision": "fp16", "device": "cpu"}, "fp16 is for GPUs"),
        ({"loss_scale": {"initial": 8}}, "loss_scale is for precision fp16, precision is fp32"),
        ({"compile": "whole", "zero_stage": 3}, "compile with zero_stage 3: .*pytorch/issues/115484"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2}}},
            "deepspeed.zero_optimization.stage: set pretrain",
        ),
        ({"deepspeed": {"wall_clock_breakdown": True}, "engine": "plain"}, "engine is plain, nothing would"),
        ({"schedule": {"warmup_steps": 1000}}, "ends after the run"),
        ({"batch_ramp": [[10, 4], [10, 6]]}, "steps must rise"),
        ({"batch_ramp": [[0, 4]]}, "steps must rise from above 0"),
        ({"batch_ramp": [[10, 16]]}, "batches must not shrink"),
        ({"batch_ramp": [[10, 1]], "workers": 2}, "begins with 1 samples for 2 workers"),
        ({"optimizer": {"kind": "lion", "eps": 1e-6}}, "eps: not used by optimizer lion"),
        ({"optimizer": {"kind": "adamw", "momentum": 0.9}}, "momentum: not used by optimizer adamw"),
        ({"optimizer": {"lr": float("nan")}}, "finite number"),
        ({"optimizer": {"lr": -1.0}}, "greater than 0"),
        ({"optimizer": {"weight_decay": -0.1}}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**values)
