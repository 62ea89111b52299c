"""The long proofs: each case yields one outcome a run, empty where it held, else what went wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from cluster import places
from cluster.errors import RunError, UserError
from cluster.lease import RENEW_SECONDS
from cluster.recipe import ROOT
from data_jobs import open_corpus
from data_jobs.settings import CorpusSettings
from data_jobs.shards.corpus import Corpus
from data_jobs.shards.manifest import SHARDS
from data_jobs.shards.shard_file import ShardFile
from data_jobs.verify import problems
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader, load_newest
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver, committed_folders
from llm.train.group import Group
from llm.train.run_folder import read_metrics
from tests import object_store
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl
from tests.data_jobs.input_files import KINDS, write_source
from tests.data_jobs.test_every_source import check_ledger
from tests.journeys.home import HERE, RECIPE, Home
from tests.journeys.test_architectures import BERT
from tests.journeys.test_object_store import assert_same
from tests.journeys.test_pretrain import assert_same_run, wait_for_step
from tests.journeys.test_survival import lost_and_given, worker_pids
from tests.llm.train.test_engines import make_engine, train_steps

FLIPS, PREPARE_KILLS, DRIVER_KILLS, KILLS_IN_ONE, STARTS, STORE_KILLS = 200, 24, 2, 20, 20, 3
DATA_KILLS = 20


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
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        plain, whole = ("clean", "spill", "merge"), EVERY_STAGE
        for stages, settings in ((plain, _few_stages(home)), (whole, _every_stage(home, ("jsonl", "csv")))):
            points = [
                f"prepare.{when}_{stage}:job={{job}}" for when in ("before", "after") for stage in stages
            ]
            points += [
                f"prepare.{when}_{what}" for when in ("before", "after") for what in ("train", "manifest")
            ]
            prepare(settings, home / f"clean-{len(stages)}")
            want = fingerprint(home / f"clean-{len(stages)}")
            arguments = [settings.model_dump_json(), str(home / "out")]
            for _ in range(PREPARE_KILLS):
                shutil.rmtree(home / "out", ignore_errors=True)
                said = []
                for _ in range(draw.randint(1, 2)):
                    fault = draw.choice(points).format(job=draw.randint(0, 1))
                    said.append(f"{fault} -> {_run(PREPARE, arguments, MANTA_FAULT=fault)}")
                status = _run(PREPARE, arguments)
                yield "" if status == 0 and fingerprint(home / "out") == want else f"{said}, then {status}"


def data_kills(seed: int) -> Iterator[str]:
    """Every kind of source, every stage, on Ray with 1 and 2 workers: workers and the driver killed at random
    points, every promised byte equal to those of one process that was never stopped, and the ledger exact.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        settings = _every_stage(home.path, KINDS)
        home.recipe.write_text(yaml.safe_dump({"corpus": settings.model_dump(mode="json")}))
        check_ledger(prepare(settings, home.path / "clean"))
        want = fingerprint(home.path / "clean")
        args = (str(home.recipe), "--corpus.out", str(home.corpus), "--cluster.num_cpus")
        for number in range(DATA_KILLS):
            shutil.rmtree(home.corpus, ignore_errors=True)
            workers, is_worker = str(1 + number % 2), number % 4 < 2
            when = draw.choice(("before", "after"))
            if is_worker:  # the task is run again by Ray, and the command ends well
                fault = f"prepare.{when}_{draw.choice(EVERY_STAGE)}:job=0"
                once = {"MANTA_FAULT": fault, "MANTA_FAULT_ONCE": str(home.path / f"killed-{number}")}
                home.call("data_jobs.prepare", *args, workers, **once)
                reached = Path(once["MANTA_FAULT_ONCE"]).exists()
            else:
                fault = f"prepare.{when}_{draw.choice(('train', 'manifest'))}"
                home.call("data_jobs.prepare", *args, workers, status=-signal.SIGKILL, MANTA_FAULT=fault)
                home.call("data_jobs.prepare", *args, workers)
                reached = True
            same = fingerprint(home.corpus) == want
            yield "" if same and reached else f"{fault}, {workers} workers: same {same}, reached {reached}"


def _few_stages(home: Path) -> CorpusSettings:
    source = write_jsonl(home / "in.jsonl", make_texts(300))
    return settings_for(source, shard_bytes=20_000, split_bytes=20_000)


def _every_stage(home: Path, kinds: Sequence[str]) -> CorpusSettings:
    """A source of each kind, with lines that many share, near duplicates, and an evaluation text."""
    texts = [
        f"{text.replace(NEWLINE, ' ')}{NEWLINE}This line stands in every one." for text in make_texts(60)
    ]
    texts += [f"{text} And a word more." for text in texts[::3]]
    sources = []
    for number, kind in enumerate(kinds):
        own = [text.replace(NEWLINE, " ") for text in texts] if kind == "text line" else texts
        sources.append({"name": f"s{number}", **write_source(home / f"in-{number}", kind, own)})
    (home / "questions.txt").write_text(texts[7])
    return CorpusSettings.model_validate(
        {
            "sources": sources,
            "filters": {"length": {"min_words": 8}},
            "repeats": {"lines": True, "min_documents": 5, "paragraphs": True},
            "decontaminate": {"files": [str(home / "questions.txt")]},
            "dedup": "minhash",
            "minhash": {"threshold": 0.6, "ranges": 2},
            "tokenizer": {"vocab_size": 500},
            "shard_bytes": 20_000,
            "split_bytes": 5_000,
            "max_bad_fraction": 1.0,
        }
    )


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


CASES: dict[str, Callable[[int], Iterator[str]]] = {
    case.__name__: case
    for case in (
        checkpoint_flips, corpus_flips, prepare_kills, data_kills, worker_kills, checkpoint_kills,
        random_kills, driver_kills, sigterms, node_kills, elastic, worlds, two_starts, paused_holders,
        stopped_workers, object_storage, guarded_steps, layouts,
    )
}  # fmt: skip

EVERY_STAGE = (
    "clean", "units", "repeat", "rewrite", "evaluation", "contamination", "signature", "bucket", "component",
    "choose", "verdict", "spill", "merge",
)  # fmt: skip
NEWLINE = "\n"
PREPARE = """
import sys
from pathlib import Path
from data_jobs.settings import CorpusSettings
from tests.data_jobs.conftest import prepare
prepare(CorpusSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def _tests(*files: str) -> Iterator[str]:
    """Each test of these files, of which `make test` has most."""
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "not gpu and not faults", *files]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(("PASSED ", "FAILED ", "ERROR ")):
            yield "" if line.startswith("PASSED") else line


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
