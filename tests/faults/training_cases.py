"""The long proofs of training: a case yields one outcome a run, empty where it held, else what was wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cluster import places
from cluster.errors import RunError
from cluster.lease import RENEW_SECONDS
from cluster.recipe import ROOT
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader, load_newest
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver, committed_folders
from llm.train.group import Group
from llm.train.run_folder import read_metrics
from tests import object_store
from tests.faults.damage import damaged
from tests.journeys.home import HERE, RECIPE, Home
from tests.journeys.test_architectures import BERT
from tests.journeys.test_object_store import assert_same
from tests.journeys.test_pretrain import assert_same_run, wait_for_step
from tests.journeys.test_survival import lost_and_given, worker_pids
from tests.llm.train.test_engines import make_engine, train_steps

FLIPS, DRIVER_KILLS, KILLS_IN_ONE, STARTS, STORE_KILLS = 200, 2, 20, 20, 3


def checkpoint_flips(seed: int) -> Iterator[str]:
    """Random flips and truncations over every file of a checkpoint: refused by name, the one before used."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine("plain", 1)
        saver = CheckpointSaver(Path(folder), engine, 0, 1, "ab" * 6, Keep(2), {})
        for step in (1, 2):
            train_steps(engine, 0, 1, step - 1, step)
            saver.save(RunState(step, 8 * step, 0, "run"))
        saver.finish()
        newest = committed_folders(Path(folder))[0]
        target = make_engine("plain", 1)
        for _ in range(FLIPS):
            path = draw.choice(sorted(newest.iterdir()))
            said = io.StringIO()
            with damaged(path, draw) as what, contextlib.redirect_stderr(said):
                try:
                    state = load_newest(
                        Path(folder), target, Group(0, 1, torch.device("cpu")), lambda reader: None
                    )
                    right = state is not None and state.step == 1 and str(path) in said.getvalue()
                    yield "" if right else f"{what}: {state} was loaded, {said.getvalue() or 'no warning'}"
                except RunError as error:
                    yield f"{what}: {error}"


def worker_kills(seed: int) -> Iterator[str]:
    """A worker killed at the first, a middle, the last-before and a checkpoint's step: equal to the bit."""
    draw = random.Random(seed)
    for home in _homes():
        for step in (1, 8, 9, 10):
            fault = f"train.step:step={step}:rank={draw.randint(0, 1)}"
            yield _killed(home, fault)


def checkpoint_kills(seed: int) -> Iterator[str]:
    """The first worker killed at each write point of a checkpoint: equal to the bit."""
    names = ("after_weights", "after_optim", "before_receipt", "before_index", "after_index")
    for home in _homes():
        for name in names:
            yield _killed(home, f"checkpoint.{name}:step=10" + (":rank=0" if "index" not in name else ""))
        yield _killed(home, "checkpoint.after_optim:step=10:rank=1")


def random_kills(seed: int) -> Iterator[str]:
    """Twenty seeded kills in one run of 200 steps: equal to the bit."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, 200), KILLS_IN_ONE))
    faults = [f"train.step:step={step}:rank={draw.randint(0, 1)}" for step in steps]
    longer = ("--pretrain.steps", "200", "--pretrain.checkpoint.every", "10")
    for home in _homes(*longer):
        home.patience = 60.0 * KILLS_IN_ONE
        yield _killed(home, ";".join(faults), *longer)


def driver_kills(seed: int) -> Iterator[str]:
    """The driver killed after a random step, the command repeated: equal to the bit."""
    draw = random.Random(seed)
    for home in _homes():
        for number in range(DRIVER_KILLS):
            step = draw.randint(0, 15)
            process = home.start("llm.pretrain", *home.pretrain_args(f"driver-{number}"))
            wait_for_step(process, home.path / f"driver-{number}", step)
            process.kill()
            process.communicate()
            yield _same(home, f"driver-{number}", f"driver after step {step}")


def sigterms(seed: int) -> Iterator[str]:
    """SIGTERM of the driver after a random step: a checkpoint at the step reached, then equal to the bit."""
    draw = random.Random(seed)
    for home in _homes():
        step, run = draw.randint(1, 12), home.path / "term"
        process = home.start("llm.pretrain", *home.pretrain_args("term"))
        wait_for_step(process, run, step)
        process.terminate()
        said, _ = process.communicate()
        at = list(read_metrics(run))[-1]["step"]
        there = CheckpointReader(committed_folders(run / "checkpoints")[0]).state.step
        right = process.returncode == 143 and there == at
        yield _same(home, "term", f"SIGTERM after step {step}") if right else f"{at}, saved {there}: {said}"


def node_kills(seed: int) -> Iterator[str]:
    """A node killed with its worker, another in reserve: equal to the bit."""
    from ray.cluster_utils import Cluster

    draw = random.Random(seed)
    for home in _homes():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            node, step = cluster.add_node(num_cpus=1), draw.randint(2, 12)
            process = home.start(
                "llm.pretrain", *home.pretrain_args("node", "--cluster.address", cluster.address)
            )
            wait_for_step(process, home.path / "node", step)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
            said, _ = process.communicate()
            yield _compared(home, "node", f"node lost after step {step}") if process.returncode == 0 else said
        finally:
            cluster.shutdown()


def elastic(seed: int) -> Iterator[str]:
    """1 to 2 workers, a node lost and one given: both changes are seen, each sample is trained on once."""
    with tempfile.TemporaryDirectory() as folder:
        yield lost_and_given(_home(Path(folder)))


def worlds(seed: int) -> Iterator[str]:
    """1, 2, 3, 4 workers and back at ZeRO 1, 3, 2, 0 in one run: the samples and losses of one worker."""
    pieces = ((1, 1), (2, 3), (3, 2), (4, 0), (3, 1), (2, 2), (1, 3))
    for batch in (10, 8):
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder))
            home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
            common = (
                "--pretrain.steps", "100", "--pretrain.batch", str(batch),
                "--pretrain.wandb.mode", "disabled", "--pretrain.checkpoint.every", "7",
                "--pretrain.max_failures", "0",
            )  # fmt: skip
            home.pretrain("one", *HERE, *common)
            for number, (workers, stage) in enumerate(pieces):
                last = number == len(pieces) - 1
                layout = ("--pretrain.workers", str(workers), "--pretrain.zero_stage", str(stage))
                fault = {} if last else {"MANTA_FAULT": f"train.step:step={15 * (number + 1)}:rank=0"}
                cpus = ("--cluster.num_cpus", "4", "--pretrain.cpus_per_worker", "1")
                home.pretrain("many", *common, *layout, *cpus, status=0 if last else 1, **fault)
            yield _nearly(home.path / "many", home.path / "one", batch)


def two_starts(seed: int) -> Iterator[str]:
    """Two starts of one run at the same instant: one runs, the other is refused by name."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
        for number in range(STARTS):
            args = home.pretrain_args(f"run-{number}", *HERE, "--pretrain.steps", "30")
            both = [home.start("llm.pretrain", *args) for _ in range(2)]
            said = sorted((p.communicate()[0], p.returncode) for p in both)
            ended = sorted(status for _, status in said)
            refused = next((text for text, status in said if status == 2), "")
            rows = [row["step"] for row in read_metrics(home.path / f"run-{number}")]
            right = ended == [0, 2] and "is writing this folder" in refused and rows == list(range(31))
            yield "" if right else f"{ended}: {said}"


def paused_holders(seed: int) -> Iterator[str]:
    """A run stopped by SIGSTOP and taken over by another start: awake again it commits and logs nothing."""
    for home in _homes():
        steps = ("--pretrain.steps", "400", "--pretrain.validation.every", "0")
        args, run = home.pretrain_args("paused", *HERE, *steps), home.path / "paused"
        first = home.start("llm.pretrain", *args)
        wait_for_step(first, run, 12)
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(2 * RENEW_SECONDS + 1)  # before, it passes for alive, and the second is refused
        second = home.start("llm.pretrain", *args)
        wait_for_step(second, run, 200)
        os.kill(first.pid, signal.SIGCONT)
        said, theirs = first.communicate()[0], second.communicate()[0]
        ended = (first.returncode, second.returncode)
        rows = list(read_metrics(run))
        indices = [json.loads(file.read_bytes()) for file in run.glob("checkpoints/*/index.json")]
        right = (
            ended == (1, 0)
            and "another start of the command writes this folder" in said
            and [row["step"] for row in rows] == list(range(401))
            and len({row["attempt"] for row in rows}) == 2
            and {index["generation"] for index in indices} == {2}
        )
        yield "" if right else f"{ended}: {said[-500:]} {theirs[-500:]}"


def stopped_workers(seed: int) -> Iterator[str]:
    """A worker stopped by SIGSTOP: the group is restarted within its deadline, equal to the bit."""
    draw = random.Random(seed)
    for home in _homes():
        process = home.start("llm.pretrain", *home.pretrain_args("hung", "--pretrain.hang_seconds", "8"))
        wait_for_step(process, home.path / "hung", draw.randint(1, 12))
        os.kill(draw.choice(worker_pids(process)), signal.SIGSTOP)
        said, _ = process.communicate()
        found = _compared(home, "hung", "a worker stopped")
        right = process.returncode == 0 and "Timeout" in said
        yield found if right else f"{process.returncode}: {said[-500:]}"


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


def guarded_steps(seed: int) -> Iterator[str]:
    """NaN, spikes, rewinds and planted gradients, each engine: the tests of it, which draw nothing."""
    yield from _tests("tests/llm/train/test_guarded_runs.py")


def layouts(seed: int) -> Iterator[str]:
    """Any ZeRO stage, offloaded or not, and world to any other, with one worker's losses: the tests."""
    yield from _tests("tests/llm/train/test_engines.py", "tests/llm/train/test_checkpoints.py")


def _tests(*files: str) -> Iterator[str]:
    """Each test of these files, of which `make test` has most."""
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "not gpu and not faults", *files]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(("PASSED ", "FAILED ", "ERROR ")):
            yield "" if line.startswith("PASSED") else line


def _home(folder: Path, *args: str, recipe: dict[str, Any] | None = None) -> Home:
    home = Home(folder, recipe)
    home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
    home.pretrain("whole", *args)
    return home


def _homes(*args: str) -> Iterator[Home]:
    """For a GPT and for a BERT: a folder with the run that was never stopped."""
    for recipe in (RECIPE, {**RECIPE, **BERT}):
        with tempfile.TemporaryDirectory() as folder:
            yield _home(Path(folder), *args, recipe=recipe)


def _killed(home: Home, fault: str, *args: str) -> str:
    """A run in which that happens once, beside the one that was never stopped."""
    name = hashlib.sha256(fault.encode()).hexdigest()[:8]
    mark = home.path / f"killed-{name}"
    found = _same(home, f"run-{name}", fault, *args, MANTA_FAULT=fault, MANTA_FAULT_ONCE=str(mark))
    reached = len(list(home.path.glob(f"{mark.name}*")))
    return found or ("" if reached == fault.count(";") + 1 else f"{fault}: reached {reached} times")


def _same(home: Home, run: str, what: str, *args: str, **env: str) -> str:
    try:
        home.pretrain(run, *args, **env)
    except AssertionError as error:
        return f"{what}: {str(error)[-500:]}"
    return _compared(home, run, what)


def _compared(home: Home, run: str, what: str) -> str:
    try:
        assert_same_run(home.path / run, home.path / "whole")
    except AssertionError as error:
        return f"{what}: {str(error)[:500]}"
    return ""


def _nearly(run: Path, other: Path, batch: int) -> str:
    """Samples equal, losses within 1e-5 relative."""
    worst = 0.0
    for row, one in zip(read_metrics(run), read_metrics(other), strict=True):
        if row.get("sample_digest") != one.get("sample_digest"):
            return f"batch {batch}, step {row['step']}: other samples"
        if "loss" in row:
            worst = max(worst, abs(row["loss"] / one["loss"] - 1))
    return "" if worst <= 1e-5 else f"batch {batch}: losses differ by {worst:.1e}"


CASES = (
    checkpoint_flips, worker_kills, checkpoint_kills, random_kills, driver_kills, sigterms, node_kills,
    elastic, worlds, two_starts, paused_holders, stopped_workers, object_storage, guarded_steps, layouts,
)  # fmt: skip
