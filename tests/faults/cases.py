"""The long proofs: each case yields one outcome a run, empty where it held, else what went wrong."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cluster import places
from cluster.errors import RunError, UserError
from data_jobs import open_corpus
from data_jobs.corpus import Corpus
from data_jobs.manifest import SHARDS
from data_jobs.shards import ShardFile
from data_jobs.verify import problems
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import load_newest
from llm.train.checkpoints.save import CheckpointSaver, committed_folders
from llm.train.group import Group
from tests import object_store
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl
from tests.journeys.test_object_store import assert_same
from tests.journeys.test_pretrain import Home, assert_same_run, wait_for_step
from tests.llm.train.test_engines import make_engine, train_steps

FLIPS, PREPARE_KILLS, WORKER_KILLS, DRIVER_KILLS, STORE_KILLS = 200, 24, 4, 3, 3


def checkpoint_flips(seed: int) -> Iterator[str]:
    """Random flips and truncations over every file of a checkpoint: refused by name, the one before used."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine("plain", 1)
        saver = CheckpointSaver(Path(folder), engine, 0, 1, "ab" * 6, 2, {})
        for step in (1, 2):
            train_steps(engine, 0, 1, step - 1, step)
            saver.save(RunState(step, 8 * step, 0, "run"))
        saver.finish()
        newest = committed_folders(Path(folder))[0]
        target = make_engine("plain", 1)
        for _ in range(FLIPS):
            path = draw.choice(sorted(newest.iterdir()))
            said = io.StringIO()
            with _damaged(path, draw) as what, contextlib.redirect_stderr(said):
                try:
                    state = load_newest(
                        Path(folder), target, Group(0, 1, torch.device("cpu")), lambda reader: None
                    )
                    right = state is not None and state.step == 1 and str(path) in said.getvalue()
                    yield "" if right else f"{what}: {state} was loaded, {said.getvalue() or 'no warning'}"
                except RunError as error:
                    yield f"{what}: {error}"


def corpus_flips(seed: int) -> Iterator[str]:
    """Random flips and truncations over every promised file of a corpus: found and named."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        source = write_jsonl(Path(folder) / "in.jsonl", make_texts(300))
        corpus = Path(folder) / "corpus"
        prepare(settings_for(source, shard_bytes=20_000, val_fraction=0.1), corpus)
        files = sorted(corpus / name for name in fingerprint(corpus))
        good = {path: ShardFile(path).batch for path in files if path.parent.name == SHARDS}
        for _ in range(FLIPS):
            path = draw.choice(files)
            with _damaged(path, draw) as what:
                problem = _not_found(corpus, path, what)
                # Arrow pads its framing: a flip there changes nothing that anybody reads.
                harmless = problem and path in good and ShardFile(path).batch.equals(good[path])
                yield "" if harmless else problem


def prepare_kills(seed: int) -> Iterator[str]:
    """`prepare` killed at random points, often twice, and run again: every promised byte equal."""
    draw = random.Random(seed)
    stages = ("clean", "spill", "merge")
    points = [f"prepare.{when}_{stage}:job={{job}}" for when in ("before", "after") for stage in stages]
    points += [f"prepare.{when}_{what}" for when in ("before", "after") for what in ("train", "manifest")]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = write_jsonl(home / "in.jsonl", make_texts(300))
        arguments = [str(home / "in.jsonl"), str(home / "out")]
        prepare(settings_for(source, shard_bytes=20_000, split_bytes=20_000), home / "clean")
        want = fingerprint(home / "clean")
        for _ in range(PREPARE_KILLS):
            shutil.rmtree(home / "out", ignore_errors=True)
            said = []
            for _ in range(draw.randint(1, 2)):
                fault = draw.choice(points).format(job=draw.randint(0, 1))
                said.append(f"{fault} -> {_run(PREPARE, arguments, MANTA_FAULT=fault)}")
            status = _run(PREPARE, arguments)
            yield "" if status == 0 and fingerprint(home / "out") == want else f"{said}, then {status}"


def worker_kills(seed: int) -> Iterator[str]:
    """One of two workers killed in a random step, on Ray: losses and weights equal to the bit."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = _home(Path(folder))
        for number in range(WORKER_KILLS):
            fault = f"train.step:step={draw.randint(1, 20)}:rank={draw.randint(0, 1)}"
            mark = home.path / f"killed-{number}"
            yield _same(home, f"worker-{number}", fault, MANTA_FAULT=fault, MANTA_FAULT_ONCE=str(mark))
            assert mark.exists(), f"{fault} was never reached"


def driver_kills(seed: int) -> Iterator[str]:
    """The driver killed after a random step, the command repeated: losses and weights equal to the bit."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = _home(Path(folder))
        for number in range(DRIVER_KILLS):
            step = draw.randint(0, 17)
            process = home.start("llm.pretrain", *home.pretrain_args(f"driver-{number}"))
            wait_for_step(process, home.path / f"driver-{number}", step)
            process.kill()
            process.communicate()
            yield _same(home, f"driver-{number}", f"driver after step {step}")


def object_storage(seed: int) -> Iterator[str]:
    """Corpus and run on S3, one request in twenty failing, a worker killed: equal to the bit, on Ray."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, object_store.start() as s3:
        os.environ.update(s3.env)  # of this process, for what reads the run
        home, bucket = _home(Path(folder), "--pretrain.steps", "12"), s3.new_bucket()
        corpus = places.at(f"{bucket}/corpus")
        assert isinstance(corpus, places.ObjectPath)
        places.send_folder(home.corpus, corpus, "manifest.json")
        for number in range(STORE_KILLS):
            run, rank = f"{bucket}/run-{number}", draw.randint(0, 1)
            fault = f"train.step:step={draw.randint(1, 12)}:rank={rank}"
            if number == 0:
                fault = "checkpoint.before_index:step=10"
            args = [
                str(home.recipe), "--pretrain.corpus", str(corpus), "--pretrain.out", run,
                "--pretrain.steps", "12", "--cluster.cache_dir", str(home.path / "copies"),
            ]  # fmt: skip
            mark = home.path / f"killed-{number}"
            try:
                with s3.failing(20):
                    home.call("llm.pretrain", *args, MANTA_FAULT=fault, MANTA_FAULT_ONCE=str(mark))
                assert mark.exists(), "was never reached"
                assert_same(run, home.path / "whole")
                yield ""
            except AssertionError as error:
                yield f"{fault}: {str(error)[-500:]}"


CASES: dict[str, Callable[[int], Iterator[str]]] = {
    case.__name__: case
    for case in (checkpoint_flips, corpus_flips, prepare_kills, worker_kills, driver_kills, object_storage)
}

PREPARE = """
import sys
from pathlib import Path
from llm.train.group import Group
from tests.data_jobs.conftest import prepare, settings_for
prepare(settings_for(sys.argv[1], shard_bytes=20_000, split_bytes=20_000), Path(sys.argv[2]))
"""


class _damaged:
    """A file with one bit flipped, or cut, for the length of a block."""

    def __init__(self, path: Path, draw: random.Random) -> None:
        self.path, self.good = path, path.read_bytes()
        at = draw.randrange(len(self.good))
        if draw.random() < 0.8:
            self.bad = bytearray(self.good)
            self.bad[at] ^= 1 << draw.randrange(8)
            self.what = f"{path.name}, bit flipped at byte {at}"
        else:
            self.bad = bytearray(self.good[:at])
            self.what = f"{path.name}, cut to {at} bytes"

    def __enter__(self) -> str:
        self.path.write_bytes(self.bad)
        return self.what

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.good)


def _not_found(corpus: Path, path: Path, what: str) -> str:
    try:
        opened: Corpus = open_corpus(corpus, "start")
        said = list(problems(opened, quiet=True))
    except (RunError, UserError) as error:
        said = [str(error)]
    if not said:
        return f"{what}: not found"
    return "" if any(path.name in line for line in said) else f"{what}: found, and not named: {said[0]}"


def _run(code: str, arguments: list[str], **env: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | env, check=False, capture_output=True
    )
    return done.returncode


def _home(folder: Path, *args: str) -> Home:
    home = Home(folder)
    home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
    home.pretrain("whole", *args)
    return home


def _same(home: Home, run: str, what: str, **env: str) -> str:
    try:
        home.pretrain(run, **env)
        assert_same_run(home.path / run, home.path / "whole")
    except AssertionError as error:
        return f"{what}: {str(error)[:500]}"
    return ""
