"""A checkpoint validated away from the training: the training's own numbers, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RunError
from data_jobs import open_corpus
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.evaluator import validate_checkpoint
from llm.train.job import Job
from llm.train.run_folder import RunFolder
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import MODEL, rows_of, settings_of, train

EVERY = {"steps": 6, "checkpoint": {"every": 2, "keep": 9}, "validation": {"every": 2, "max_samples": 3}}
ELSEWHERE = {**EVERY, "validation": {**EVERY["validation"], "where": "workers"}}  # type: ignore[dict-item]

KINDS = [("plain", "fp32"), ("zero1", "fp32"), ("zero1", "bf16"), ("zero3", "fp32")]

pytestmark = pytest.mark.usefixtures("one_thread")


def job_of(corpus: str, run: Path, settings: PretrainSettings, lease: dict[str, Any] | None = None) -> Job:
    """As `tests.llm.train.runs.train` has it."""
    return Job(
        model=ModelSettings.model_validate(MODEL).model_dump(mode="json"),
        section="pretrain",
        settings=settings.model_dump(mode="json"),
        data=corpus,
        vocab_size=open_corpus(corpus, "read").tokenizer.vocab_size,
        start=None,
        run=str(run),
        run_id="run-1",
        launch="launch",
        lease={} if lease is None else lease,
    )


def train_each(rank: int, world: int, corpus: str, folder: Path) -> None:
    """A run of each kind that validates itself."""
    for kind, precision in KINDS:
        train(rank, world, corpus, folder / f"{kind}-{precision}", kind, precision=precision, **EVERY)


@pytest.fixture(scope="module")
def runs(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_workers(train_each, 1, corpus, folder)
    return folder


@pytest.mark.parametrize(("kind", "precision"), KINDS)
def test_the_numbers_are_those_of_the_trainer(corpus: str, runs: Path, kind: str, precision: str) -> None:
    """Every checkpoint of a run that validated itself; the last over all samples."""
    run = runs / f"{kind}-{precision}"
    own = {row["step"]: (row["val_loss"], row["bits_per_byte"]) for row in rows_of(run) if "val_loss" in row}
    job = job_of(corpus, run, settings_of(kind, 1, precision=precision, **EVERY))
    beats: list[int] = []
    found = {}
    for folder in committed_folders(run / "checkpoints"):
        most = None if step_of(folder) == 6 else 3
        values = validate_checkpoint(job, folder, most, torch.device("cpu"), lambda: beats.append(1))
        found[step_of(folder)] = (values["val_loss"], values["bits_per_byte"])
    assert found == {step: own[step] for step in (2, 4, 6)}
    assert len(set(found.values())) == 3 and len(beats) > 3


def test_training_is_the_same_and_names_its_checkpoints(corpus: str, tmp_path: Path) -> None:
    """Before the first step there is no checkpoint: that validation stays in the training."""
    train(0, 1, corpus, tmp_path / "own", **EVERY)
    train(0, 1, corpus, tmp_path / "beside", **ELSEWHERE)
    own, beside = rows_of(tmp_path / "own"), rows_of(tmp_path / "beside")
    assert [row.get("loss") for row in beside] == [row.get("loss") for row in own]
    assert beside[0]["val_loss"] == own[0]["val_loss"]
    assert not any("val_loss" in row for row in beside[1:])
    names = {step_of(f): f.name for f in committed_folders(tmp_path / "beside/checkpoints")}
    assert {row["step"]: row["checkpoint"] for row in beside if "checkpoint" in row} == names
    assert (tmp_path / "own/summary.json").exists() and not (tmp_path / "beside/summary.json").exists()
    assert RunFolder(tmp_path / "beside").trained.exists(), "for whoever adds the last validation"


def test_a_line_is_there_for_each_validation(corpus: str, tmp_path: Path) -> None:
    """Also where few steps are logged."""
    train(0, 1, corpus, tmp_path / "run", log_every=5, **ELSEWHERE)
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 2, 4, 5, 6]


def test_a_damaged_checkpoint_is_named(corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(0, 1, corpus, run, **EVERY)
    newest = committed_folders(run / "checkpoints")[0]
    file = newest / "weights-0-of-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="weights-0-of-1"):
        validate_checkpoint(
            job_of(corpus, run, settings_of("plain", 1, **EVERY)), newest, 3, torch.device("cpu")
        )


def test_of_a_waiting_checkpoint_nothing_is_swept(corpus: str, tmp_path: Path) -> None:
    """keep 1: those that are still to be validated stay, those of other steps go."""
    changes = {**ELSEWHERE, "steps": 8, "checkpoint": {"every": 1, "keep": 1}}
    train(0, 1, corpus, tmp_path / "run", **changes)
    assert [step_of(f) for f in committed_folders(tmp_path / "run/checkpoints")] == [8, 6, 4, 2]
