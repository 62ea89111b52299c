"""Checkpoints, logs and the stop sign of a run in an object store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import lease, places
from cluster.errors import RunError
from cluster.lease import Superseded
from cluster.places import ObjectPath, PlaceError
from llm.train import run_folder, tracking
from llm.train.checkpoints import layout
from llm.train.checkpoints.chunks import CHUNK, ChunkReader, write_tensors
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader, load_newest, newest_good
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver, committed_folders, sweep_torn
from llm.train.run_folder import RunFolder, StopSign, begin_run, read_lines, set_aside
from llm.train.tracking import LineFile, MetricsFile
from tests.llm.train.processes import run_workers
from tests.llm.train.test_checkpoints import KILLED, SAVED_AT, group_of, resume, train_save_go_on
from tests.llm.train.test_engines import make_engine, train_steps
from tests.object_store import S3


@pytest.fixture
def folder(bucket: str) -> ObjectPath:
    place = places.at(bucket) / "checkpoints"
    assert isinstance(place, ObjectPath)
    return place


def save_and_resume(rank: int, world: int, bucket: str, here: str) -> tuple[Any, Any]:
    losses = train_save_go_on(rank, world, bucket, ("plain",))["plain"]
    train_save_go_on(rank, world, here, ("plain",))
    return losses, resume(rank, world, bucket, [("plain-2", "plain")])["plain-2", "plain"]


def test_two_workers_save_and_another_world_goes_on(s3: S3, bucket: str, tmp_path: Path) -> None:
    """Each seventh request fails. Loaded by one worker: what two on this machine saved, to the bit."""
    with s3.failing(7):
        losses, again = run_workers(save_and_resume, 2, bucket, str(tmp_path), own=True)[0]
    assert again == losses
    engines = [make_engine("plain", 1) for _ in range(2)]
    for engine, place in zip(engines, (places.at(bucket), tmp_path), strict=True):
        state = load_newest(place / "plain-2", engine, group_of(0, 1), lambda reader: None)
        assert state == RunState(SAVED_AT, 32, 512, "run")
    for one, other in zip(engines[0].held(), engines[1].held(), strict=True):
        assert torch.equal(one.values, other.values)


def saved(folder: ObjectPath, step: int = 3, **changes: Any) -> ObjectPath:
    saver = CheckpointSaver(folder, make_engine("plain", 1), 0, 1, "ab" * 6, Keep(2), {}, **changes)
    saver.save(RunState(step, 8 * step, 0, "run"))
    saver.finish()
    return folder / layout.folder_name(step, "ab" * 6)


def test_every_flip_truncation_and_loss_is_found(folder: ObjectPath) -> None:
    checkpoint, engine = saved(folder), make_engine("plain", 1)
    files = sorted(checkpoint.iterdir())
    assert len(files) == 5
    for file in files:
        good = file.read_bytes()
        flipped = good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 4]) + good[len(good) // 2 + 1 :]
        for bad in (flipped, good[: len(good) // 2], b"", None):
            file.unlink() if bad is None else file.write_bytes(bad)
            if file.name == layout.INDEX and bad is None:  # it was never committed
                assert load_newest(folder, engine, group_of(0, 1), lambda r: None) is None
            else:
                with pytest.raises(RunError, match=str(file)):
                    load_newest(folder, engine, group_of(0, 1), lambda r: None)
            file.write_bytes(good)
    assert load_newest(folder, engine, group_of(0, 1), lambda r: None) is not None


def test_a_store_that_is_away_is_no_damage(
    folder: ObjectPath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older checkpoint that could be read a moment later is not taken for the newest."""
    for step in (1, 2):
        saved(folder, step)
    weights, engine = next(folder.glob("step-000000002*/weights*")), make_engine("plain", 1)
    read_range = ObjectPath.read_range

    def away(self: ObjectPath, start: int, length: int) -> bytes:
        if self == weights:
            raise PlaceError(str(self), "reading failed on purpose")
        return read_range(self, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "read_range", away)
        with pytest.raises(PlaceError, match="on purpose"):
            load_newest(folder, engine, group_of(0, 1), lambda r: None)
        with pytest.raises(PlaceError, match="on purpose"):
            newest_good(folder, CheckpointReader.check_weights)
    assert "passed over" not in capsys.readouterr().err
    state = load_newest(folder, engine, group_of(0, 1), lambda r: None)
    assert state is not None and state.step == 2


def test_those_that_a_live_run_saves_meanwhile_are_looked_for(folder: ObjectPath) -> None:
    """It sweeps what was listed while that is read."""
    for step in (1, 2):
        saved(folder, step)

    def sweep(reader: CheckpointReader) -> int:
        if reader.state.step == 2:
            for step in (3, 4):
                saved(folder, step)
        reader.check_weights()
        return reader.state.step

    found = newest_good(folder, sweep)
    assert found is not None and found[1] == 4
    swept = [child.name for child in committed_folders(folder)]
    engine = make_engine("plain", 1)

    def check(reader: CheckpointReader) -> None:
        if reader.folder.name == swept[0]:
            for step in (5, 6):
                saved(folder, step)

    state = load_newest(folder, engine, group_of(0, 1), check)
    assert state is not None and state.step == 6


def test_killed_before_a_commit(folder: ObjectPath) -> None:
    """SIGKILL while the second checkpoint is written: the first stands, the rest is swept."""
    env = os.environ | {"MANTA_FAULT": "checkpoint.before_index:step=2"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), "ab" * 6], check=False, env=env)
    assert done.returncode == -9
    engine, reference = make_engine("plain", 1), make_engine("plain", 1)
    state = load_newest(folder, engine, group_of(0, 1), lambda r: None)
    assert state is not None and state.step == 1
    train_steps(reference, 0, 1, 0, 1)
    assert train_steps(engine, 0, 1, 1, 5) == train_steps(reference, 0, 1, 1, 5)
    assert len(list(folder.iterdir())) == 2
    sweep_torn(folder)
    assert len(list(folder.iterdir())) == 1


def test_old_ones_are_swept(folder: ObjectPath) -> None:
    for step in (1, 2, 3):
        saved(folder, step)
    assert [CheckpointReader(f).state.step for f in committed_folders(folder)] == [3, 2]
    assert len(list(folder.iterdir())) == 2


def test_who_lost_the_lease_takes_its_index_back(bucket: str, folder: ObjectPath) -> None:
    """Another takes the run over between the last look and the PUT of the index."""
    run = places.at(bucket)
    mine = lease.hold(run)
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        mine.of_workers.check()
        if looks == 1:
            places.write_json(lease._file(run, 2), {**vars(mine.holder), "generation": 2, "token": "other"})

    with pytest.raises(Superseded):
        saved(folder, check_writer=check)
    assert looks == 2 and committed_folders(folder) == []
    mine.release()


def test_neighbouring_chunks_come_in_one_request(s3: S3, folder: ObjectPath) -> None:
    """Each wanted chunk once, side by side in one request of whole chunks, unwanted ones not at all."""
    values = np.arange(20 * CHUNK // 4, dtype=np.float32)
    file, starts = write_tensors(folder, "x.safetensors", [("a", values)])
    reader = ChunkReader(folder, file, 8)
    wanted = [(number * CHUNK // 4, 1000) for number in (*range(12), 17)]
    for first, length in wanted:
        reader.expect(starts[0] + 4 * first, 4 * length)
    s3.log()
    for first, length in wanted:
        data = reader.read(starts[0] + 4 * first, 4 * length)
        assert np.array_equal(np.frombuffer(data, np.float32), values[first : first + length])
    ranges = [row[2] for row in s3.log()]
    chunks = [tuple(int(part) for part in text.removeprefix("bytes=").split("-")) for text in ranges]
    assert [(a // CHUNK, (b + 1) // CHUNK) for a, b in chunks] == [(0, 8), (8, 12), (17, 18)]


def test_lines_are_sent_now_and_then_and_before_each_commit(
    bucket: str, folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = places.at(bucket) / "metrics.jsonl"
    file = MetricsFile(metrics, -1)
    for step in range(3):
        file.log({"step": step})
    assert not metrics.exists()
    saved(folder, check_writer=file.send)
    assert [line["step"] for line in read_lines(metrics)] == [0, 1, 2]
    file.log({"step": 3})
    file.finish(0)
    assert [line["step"] for line in read_lines(metrics)] == [0, 1, 2, 3]
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.1)
    again = LineFile(metrics, 1)
    assert [line["step"] for line in read_lines(metrics)] == [0, 1]
    again.write({"step": 2, "text": "ü"})
    deadline = time.monotonic() + 10
    while len(list(read_lines(metrics))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.close()
    assert list(read_lines(metrics))[-1] == {"step": 2, "text": "ü"}


def test_who_lost_the_lease_sends_no_lines(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.05)
    metrics, lost = places.at(bucket) / "metrics.jsonl", threading.Event()

    def check() -> None:
        if lost.is_set():
            raise Superseded("another")

    file = MetricsFile(metrics, -1, check)
    file.log({"step": 0})
    file.send()
    lost.set()
    file.log({"step": 1})
    with pytest.raises(Superseded):
        for _ in range(200):
            time.sleep(0.05)
            file.log({"step": 2})
    file.finish(1)
    assert [line["step"] for line in read_lines(metrics)] == [0]


def test_the_stop_sign_is_seen(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "STOP_POLL_SECONDS", 0.05)
    sign = StopSign(RunFolder(places.at(bucket)).stop)
    time.sleep(0.2)
    assert not sign.is_there()
    RunFolder(places.at(bucket)).stop.touch()
    deadline = time.monotonic() + 10
    while not sign.is_there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sign.close()


def test_fresh_moves(bucket: str) -> None:
    run = RunFolder(places.at(bucket) / "run")
    begin_run(run, {"format": "x"})
    places.write_bytes(run.checkpoints / "a" / "b", b"b")
    places.write_bytes(run.path / lease.FOLDER / "1", b"")
    aside = set_aside(run.path)
    assert aside is not None and (aside / "settings.json").exists()
    assert (aside / "checkpoints/a/b").read_bytes() == b"b"
    assert [child.name for child in run.path.iterdir()] == [lease.FOLDER]
