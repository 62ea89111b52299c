"""The real command with validation on another Ray worker, its driver killed in between."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import llm
from tests.journeys.home import HERE, Home
from tests.journeys.test_pretrain import losses
from tests.journeys.wandb_file import history

# All checkpoints are kept: steps as short as these are taken before the first is looked for, and of several
# that wait, what would be swept is passed over.
ONE = (
    "--pretrain.workers", "1", "--pretrain.cpus_per_worker", "1", "--pretrain.checkpoint.keep", "4",
    "--pretrain.checkpoint.keep_best", "1",
)  # fmt: skip
BESIDE = (*ONE, "--pretrain.validation.where", "workers", "--cluster.num_cpus", "2")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_driver_makes_validations_up(home: Home) -> None:
    """SIGKILL when the first number is found; the same command has all of them, and everything else alike."""
    home.pretrain("itself", *HERE, *ONE)
    home.pretrain("beside", *BESIDE, status=-9, MANTA_FAULT="validation.found")
    assert not (home.path / "beside/validation.jsonl").exists()
    home.pretrain("beside", *BESIDE)
    itself, beside = (home.path / name for name in ("itself", "beside"))
    assert losses(beside) == losses(itself)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (itself, beside)]
    for name in ("first_val_loss", "val_loss", "bits_per_byte", "parameters", "steps", "loss"):
        assert summaries[0][name] == summaries[1][name], name
    best = [summary["best_checkpoint"] for summary in summaries]
    assert [(b["step"], b["val_loss"]) for b in best] == [(20, summaries[0]["val_loss"])] * 2
    rows = {row["step"]: row.get("val_loss") for row in llm.read_metrics(beside)}
    sent = history(beside)[1]
    assert [sent[step]["val_loss"] for step in (0, 10, 20)] == [rows[step] for step in (0, 10, 20)]
    assert "finished" in home.pretrain("beside", *BESIDE)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
