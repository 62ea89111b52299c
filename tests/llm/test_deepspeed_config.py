"""DeepSpeed's dict: every key is one that it knows, an expert's keys are refused where they do nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llm.deepspeed_config import FIXED, OWNED, STAGES, check_overrides, zero_config


def test_deepspeed_knows_every_key() -> None:
    """What it does not know at the top of its dict, it would ignore in silence."""
    import deepspeed
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    import llm.train.deepspeed_zero  # noqa: F401 (sets what DeepSpeed reads when it is imported)

    known = set(DeepSpeedZeroConfig.model_fields)
    known |= {field.alias for field in DeepSpeedZeroConfig.model_fields.values() if field.alias}
    config = zero_config(1, 1, 1, 0.0)
    assert set(config["zero_optimization"]) <= known
    assert set(STAGES) <= set(config["zero_optimization"])
    sources = Path(deepspeed.__file__).parent
    text = "".join(
        (sources / name).read_text()
        for name in ("runtime/constants.py", "runtime/zero/config.py", "comm/constants.py", "comm/config.py")
    )
    for key in config:
        assert f'"{key}"' in text or f"'{key}'" in text, key
    DeepSpeedZeroConfig(**config["zero_optimization"])


@pytest.mark.parametrize(
    ("given", "stage", "words"),
    [
        ({"zero_optimisation": {}}, 1, "zero_optimisation: .* did you mean 'zero_optimization'"),
        ({"zero_optimization": {"overlap_com": True}}, 1, "did you mean 'zero_optimization.overlap_comm'"),
        (
            {"zero_optimization": {"stage3_prefetch_bucket_size": 1}},
            2,
            "uses it at ZeRO stage 3, zero_stage is 2",
        ),
        ({"zero_optimization": {"round_robin_gradients": True}}, 3, "at ZeRO stage 1, 2, zero_stage is 3"),
        ({"zero_optimization": {"stage": 2}}, 1, "set pretrain.zero_stage instead"),
        ({"gradient_clipping": 0.5}, 1, "set pretrain.optimizer.clip instead"),
        ({"optimizer": {"type": "Adam"}}, 1, "set pretrain.optimizer instead"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, 1, "the engine stands on"),
        ({"zero_optimization": {"overlap_comm": 1}}, 1, "must be true or false, is 1"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, 1, "a whole number, at least 0, is -1"),
        ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, 1, "a whole number, at least 0, is '5e8'"),
        ({"zero_optimization": True}, 1, "must be a mapping"),
        ({"comms_logger": {"enable": True}}, 1, "did you mean 'comms_logger.enabled'"),
    ],
)
def test_what_would_do_nothing_is_refused(given: dict[str, Any], stage: int, words: str) -> None:
    (problem,) = check_overrides(given, stage)
    assert re.search(words, problem), problem


def test_what_does_something_replaces_ours() -> None:
    given = {
        "wall_clock_breakdown": True,
        "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 5.0e8},
    }
    assert check_overrides(given, 2) == []
    found, ours = zero_config(2, 4, 2, 1.0, overrides=given), zero_config(2, 4, 2, 1.0)
    assert found.pop("wall_clock_breakdown") is True and ours.pop("wall_clock_breakdown") is False
    assert found["zero_optimization"] == ours["zero_optimization"] | {
        "overlap_comm": True, "reduce_bucket_size": 500_000_000
    }  # fmt: skip


def test_each_key_is_said_once() -> None:
    assert not set(OWNED) & set(FIXED)
