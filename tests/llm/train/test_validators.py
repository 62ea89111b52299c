"""Checkpoints validated by another Ray worker: real evaluators, over runs of the real trainer."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

import llm
from cluster.errors import RunError
from cluster.lease import hold
from llm.settings import PretrainSettings
from llm.train import ray_workers, validators
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.job import Job
from llm.train.run_folder import RunFolder, read_lines
from llm.train.validators import Validators
from tests.llm.train.runs import rows_of, settings_of, train
from tests.llm.train.test_evaluator import ELSEWHERE, EVERY, job_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
# Of a summary what differs from run to run.
TIMES = (
    "tokens_per_second", "flops_per_second", "memory_bytes", "useful_seconds", "wall_seconds", "goodput",
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validators, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(validators, "POLL_SECONDS", 0.1)


def trained(corpus: str, run: Path, **changes: Any) -> tuple[PretrainSettings, Job]:
    """A run up to its last checkpoint, none of which was validated; and the driver's job to go on with."""
    changes = {**ELSEWHERE, **changes}
    train(0, 1, corpus, run, **changes)
    settings = settings_of("plain", 1, **changes)
    job = job_of(corpus, run, settings)
    facts = {"path": corpus, "corpus_id": "c", "tokenizer": "t", "vocab_size": job.vocab_size, "clean": {}}
    (run / "settings.json").write_text(json.dumps({"format": "manta-run-1", "corpus": facts}))
    return settings, job


def finish(settings: PretrainSettings, job: Job, stop_wanted: Callable[[], bool] = NEVER) -> None:
    with hold(Path(job.run)) as lease:
        job = Job(**{**asdict(job), "lease": asdict(lease.of_workers)})
        with Validators(job, settings, gpu=False) as beside:
            beside.finish(stop_wanted)


def found_in(run: Path) -> list[dict[str, Any]]:
    return list(read_lines(RunFolder(run).validation))


@pytest.mark.usefixtures("ray_here", "quick")
def test_what_is_missing_is_made_up(corpus: str, tmp_path: Path) -> None:
    """After a stop, too: numbers, summary and best checkpoint are those of a run that validated itself."""
    train(0, 1, corpus, tmp_path / "own", **EVERY)
    settings, job = trained(corpus, tmp_path / "beside")
    finish(settings, job, stop_wanted=lambda: True)
    assert not (tmp_path / "beside/summary.json").exists()
    finish(settings, job)
    own, beside = rows_of(tmp_path / "own"), llm.read_metrics(tmp_path / "beside")
    for name in ("val_loss", "bits_per_byte"):
        assert [row.get(name) for row in beside] == [row.get(name) for row in own]
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("own", "beside")]
    for summary in summaries:
        for name in TIMES:
            del summary[name]
        summary["best_checkpoint"].pop("folder")
    assert summaries[0] == summaries[1]
    rows = found_in(tmp_path / "beside")
    assert [row["step"] for row in rows] == [6, 4, 2], "the last one first, since all wait for it"
    assert {row["device"] for row in rows} == {"cpu"}


def evaluators() -> list[psutil.Process]:
    """Processes of Ray's actor under this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and "ray::Evaluator" in process.cmdline()[0]:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.usefixtures("ray_here", "quick")
def test_one_that_dies_is_tried_again(corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings, job = trained(corpus, tmp_path / "run", validation={**ELSEWHERE["validation"], "every": 0})
    killed = threading.Event()

    def kill_one() -> None:
        while not killed.is_set():
            for process in evaluators():
                process.kill()
                killed.set()
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    finish(settings, job)
    assert killed.is_set()
    rows = found_in(tmp_path / "run")
    assert [(row["step"], row["max_samples"]) for row in rows] == [(6, None)]
    assert "the validation of step 6 failed, it is tried again" in capfd.readouterr().err


@pytest.mark.usefixtures("ray_here", "quick")
def test_a_last_one_that_fails_is_an_error_and_can_be_made_up(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is trained, and the run is not finished: the same command tries again."""
    monkeypatch.setattr(validators, "TRIES", 1)
    run = tmp_path / "run"
    settings, job = trained(corpus, run, validation={**ELSEWHERE["validation"], "every": 0})
    file = committed_folders(run / "checkpoints")[0] / "weights-0-of-1.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    with pytest.raises(RunError, match=r"is trained .* its last validation failed: .*weights-0-of-1"):
        finish(settings, job)
    assert not (run / "summary.json").exists()
    assert [row.get("val_loss") for row in found_in(run)] == [None]
    file.write_bytes(good)
    finish(settings, job)
    assert json.loads((run / "summary.json").read_text())["val_loss"] == found_in(run)[-1]["val_loss"]


@pytest.mark.usefixtures("ray_here", "quick")
def test_slow_ones_pass_older_checkpoints_over(
    corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """keep 1, and checkpoints that came while none was validated: the newest, and a word of the others."""
    run, changes = tmp_path / "run", {**ELSEWHERE, "checkpoint": {"every": 2, "keep": 1}}
    settings, lease = settings_of("plain", 1, **changes), dict[str, Any]()
    beside = Validators(job_of(corpus, run, settings, lease), settings, gpu=False)
    train(0, 1, corpus, run, **changes)
    assert [step_of(f) for f in committed_folders(run / "checkpoints")] == [6, 4, 2]
    with hold(run) as held:
        lease.update(asdict(held.of_workers))
        beside.finish(NEVER)
    assert sorted((row["step"], row.get("passed_over", False)) for row in found_in(run)) == [
        (2, True), (4, True), (6, False),
    ]  # fmt: skip
    assert "no validation of step 2, 4: " in capfd.readouterr().err
    assert [step_of(f) for f in committed_folders(run / "checkpoints")] == [6]


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an evaluator's place: one that never ends."""

    class Evaluator:
        def __init__(self, *_: object) -> None: ...
        def is_there(self) -> None: ...
        def validate(self, *_: object) -> None:
            time.sleep(3600)

    monkeypatch.setattr(validators, "Evaluator", Evaluator)
    yield


@pytest.mark.usefixtures("ray_here", "quick", "sleeper")
def test_it_makes_room_for_the_workers(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All four CPUs reserved: it waits, and says so. A reservation that wants them: it is ended at once."""
    monkeypatch.setattr(validators, "PATIENCE_SECONDS", 0.2)
    settings, job = trained(corpus, tmp_path / "run")
    with hold(tmp_path / "run") as lease:
        job = Job(**{**asdict(job), "lease": asdict(lease.of_workers)})
        with all_cpus(), Validators(job, settings, gpu=False) as beside:
            until(lambda: "waiting: the validation of step 6 needs 1 CPU" in capfd.readouterr().err)
        with Validators(job, settings, gpu=False) as beside:
            until(lambda: beside.held() == {"CPU": 1.0})
            with all_cpus():
                assert beside.held() == {}
            until(lambda: beside.held() == {"CPU": 1.0})
    assert found_in(tmp_path / "run") == []


@contextlib.contextmanager
def all_cpus() -> Iterator[None]:
    """A reservation of them, as Ray Train makes for its workers; for the time that it has its place."""
    import ray
    from ray.util import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1}] * 4)
    try:
        ray.get(group.ready(), timeout=60)
        yield
    finally:
        remove_placement_group(group)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("available", "held", "room"),
    [
        ({"CPU": 3.0, "GPU": 1.0}, {}, 1),
        ({"CPU": 1.0, "GPU": 1.0}, {}, 0),  # its CPU is no room, though it is not at work
        ({"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}, 1),
        ({"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, 1),  # the GPU that it has would be given up
    ],
)
def test_growing_leaves_its_share(
    available: dict[str, float],
    held: dict[str, float],
    room: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Beside:
        share = {"CPU": 1.0}  # noqa: RUF012

        def held(self) -> dict[str, float]:
            return held

    monkeypatch.setattr(ray_workers.ray, "available_resources", lambda: dict(available))
    bundle = {"CPU": 1.0, "GPU": 1.0}
    watch = ray_workers._Watch(RunFolder(tmp_path), PretrainSettings(), bundle, Beside())  # type: ignore[arg-type]
    assert ray_workers._bundles(watch._free(), bundle) == room
