"""The loss scale of fp16: when it falls, when it grows, and a run that begins with one far too large."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llm.settings import PretrainSettings
from llm.train.checkpoints.layout import RunState
from llm.train.loss_scale import after_step, is_overflow, with_scale
from llm.training_settings import LossScaleSettings
from tests.llm.train.runs import losses_of, rows_of, train

SETTINGS = LossScaleSettings(initial=1024, factor=4, window=3, least=2)
FP16 = PretrainSettings(precision="fp16", loss_scale=SETTINGS)


def test_it_falls_with_each_overflow_and_grows_after_a_while() -> None:
    assert after_step(1024, 2, True, SETTINGS) == (256, 0)
    assert after_step(4, 0, True, SETTINGS) == (2, 0)
    assert after_step(256, 0, False, SETTINGS) == (256, 1)
    assert after_step(256, 2, False, SETTINGS) == (1024, 0)


@pytest.mark.parametrize(
    ("loss", "norm", "scale", "wanted"),
    [
        (2.0, math.inf, 8, True),
        (2.0, 1.0, 8, False),
        (math.nan, math.nan, 8, False),
        (2.0, math.nan, 2, False),
    ],
)
def test_only_what_a_smaller_scale_would_mend_is_an_overflow(
    loss: float, norm: float, scale: float, wanted: bool
) -> None:
    assert is_overflow(loss, norm, scale, FP16) is wanted
    assert not is_overflow(loss, norm, scale, PretrainSettings(precision="bf16"))


def test_a_run_that_changes_its_precision() -> None:
    state = RunState(5, 20, 320, "id")
    assert with_scale(state, FP16).loss_scale == 1024
    scaled = RunState(5, 20, 320, "id", loss_scale=256.0, loss_scale_steps=2)
    assert with_scale(scaled, FP16) == scaled
    assert with_scale(scaled, PretrainSettings()) == state


def test_from_far_too_large_a_scale(corpus: str, tmp_path: Path) -> None:
    """Steps are skipped until it fits, more of them than the guard allows in a row; resumed it is equal."""
    changes: dict[str, Any] = {
        "precision": "fp16", "loss_scale": {"initial": 2.0**40, "window": 5}, "guard": {"max_skips": 2},
        "steps": 40, "checkpoint": {"every": 30},
    }  # fmt: skip
    train(0, 1, corpus, tmp_path / "whole", **changes)
    rows = [row for row in rows_of(tmp_path / "whole") if "loss" in row]
    skipped = [row["step"] for row in rows if row.get("skipped") == "loss scale"]
    assert len(skipped) > 5 and skipped[:6] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["loss_scale"] == 2.0**40 and rows[1]["loss_scale"] == 2.0**39
    assert rows[-1]["loss_scale"] < 2.0**35
    assert any(b["loss_scale"] > a["loss_scale"] for a, b in pairwise(rows)), "it never grew"
    assert rows[-1]["loss"] < rows[0]["loss"]
    train(0, 1, corpus, tmp_path / "parts", **changes | {"steps": 34})
    train(0, 1, corpus, tmp_path / "parts", **changes)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
