"""A run with everything in an object store that fails now and then is the run on this machine, to the bit."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import llm
from cluster import places
from cluster.errors import UserError
from cluster.recipe import load_recipe
from data_jobs import verify
from data_jobs.settings import CorpusSettings
from llm import evaluate, export, generate, import_hf, pretrain, report
from tests.data_jobs.conftest import prepare
from tests.journeys.home import HERE, Home
from tests.object_store import S3

ALL = ("--pretrain.validation.max_samples", "null")
# Without DeepSpeed, which starts but once in a process; `test_two_workers_on_ray` has it.
STEPS = ("--pretrain.steps", "12", "--pretrain.engine", "plain")


class Remote:
    """A bucket with a corpus and runs, and the commands over them."""

    def __init__(self, home: Home, s3: S3, bucket: str, cache: Path) -> None:
        self.home, self.s3, self.bucket, self.cache = home, s3, bucket, cache
        self.shards = [file.name for file in (home.corpus / "shards").iterdir()]

    def args(self, run: str, *args: str) -> list[str]:
        return [
            str(self.home.recipe), "--pretrain.corpus", f"{self.bucket}/corpus",
            "--pretrain.out", f"{self.bucket}/{run}", *HERE, *STEPS,
            "--cluster.cache_dir", str(self.cache), *args,
        ]  # fmt: skip

    def pretrain(self, run: str, *args: str, status: int = 0, **env: str) -> str:
        return self.home.call("llm.pretrain", *self.args(run, *args), status=status, **env)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    prepare(load_recipe(home.recipe).need(CorpusSettings), home.corpus)
    pretrain.main(home.pretrain_args("here", *HERE, *STEPS))
    return home


@pytest.fixture(scope="module")
def remote(home: Home, s3: S3) -> Iterator[Remote]:
    """The same corpus in a bucket, and a run there during which one request in twenty failed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3.env, "XDG_CACHE_HOME": str(home.path / "cache")}.items():
            patch.setenv(name, value)
        bucket = s3.new_bucket()
        corpus = places.at(f"{bucket}/corpus")
        assert isinstance(corpus, places.ObjectPath)
        places.send_folder(home.corpus, corpus, "manifest.json")
        there = Remote(home, s3, bucket, home.path / "copies")
        with s3.failing(20):
            pretrain.main(there.args("whole"))
        yield there


def facts(run: str | Path) -> list[tuple[int, str, str, Any]]:
    """What must be equal to the bit: step, loss, samples, validation."""
    rows = llm.read_metrics(run)
    return [
        (r["step"], r.get("loss", 0.0).hex(), r.get("sample_digest", ""), r.get("val_loss")) for r in rows
    ]


def assert_same(run: str, here: Path) -> None:
    assert [row[0] for row in facts(here)] == list(range(13))
    assert facts(run) == facts(here)
    theirs = dict(llm.load(here).model.named_parameters())
    for name, value in llm.load(run).model.named_parameters():
        assert torch.equal(value, theirs[name]), name
    assert (places.at(run) / "samples.jsonl").read_bytes() == (here / "samples.jsonl").read_bytes()
    summaries = [json.loads((places.at(run) / "summary.json").read_bytes()) for run in (run, str(here))]
    for name in ("loss", "val_loss", "bits_per_byte", "steps", "tokens"):
        assert summaries[0][name] == summaries[1][name]


def test_one_request_in_twenty_fails_and_nothing_changes(remote: Remote) -> None:
    assert_same(f"{remote.bucket}/whole", remote.home.path / "here")
    found = [path.name for path in (places.at(remote.bucket) / "whole/checkpoints").iterdir()]
    assert len(found) == 2, "old ones are swept"
    said = remote.pretrain("whole")
    assert "finished" in said


def test_killed_and_continued(remote: Remote) -> None:
    """SIGKILL when the checkpoint of step 5 is there, some steps later; then the same command."""
    with remote.s3.failing(20):
        remote.pretrain("killed", status=-signal.SIGKILL, MANTA_FAULT="checkpoint.after_index:step=5")
        assert not (places.at(remote.bucket) / "killed/summary.json").exists()
        remote.pretrain("killed")
    assert_same(f"{remote.bucket}/killed", remote.home.path / "here")
    assert json.loads((places.at(remote.bucket) / "killed/summary.json").read_bytes())["attempts"] == 2


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_workers_on_ray(remote: Remote) -> None:
    """ZeRO 1, W&B offline; worker 1 killed in step 8, when the checkpoint of step 5 may be there or not."""
    args = [str(remote.home.recipe), "--cluster.cache_dir", str(remote.cache), "--pretrain.steps", "12"]
    here, there = str(remote.home.path / "ray"), f"{remote.bucket}/ray"
    call, mark = remote.home.call, remote.home.path / "worker-was-killed"
    call("llm.pretrain", *args, "--pretrain.corpus", str(remote.home.corpus), "--pretrain.out", here)
    args += ["--pretrain.corpus", f"{remote.bucket}/corpus", "--pretrain.out", there]
    with remote.s3.failing(20):
        call(
            "llm.pretrain", *args,
            MANTA_FAULT="train.step:step=8:rank=1", MANTA_FAULT_ONCE=str(mark),
        )  # fmt: skip
    assert mark.exists()
    assert_same(there, Path(here))
    assert list(remote.cache.glob("runs/ray-*/wandb/offline-*"))
    assert not list(places.at(there).glob("wandb"))


@pytest.mark.slow
def test_sigterm_makes_a_checkpoint_and_continues(remote: Remote) -> None:
    process = remote.home.start("llm.pretrain", *remote.args("term", "--pretrain.checkpoint.every", "1"))
    wait_for(
        process, lambda: bool(list((places.at(remote.bucket) / "term/checkpoints").glob("*/index.json")))
    )
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and "the same command continues" in out, out
    stopped = llm.load(f"{remote.bucket}/term").step
    assert stopped == llm.read_metrics(f"{remote.bucket}/term")[-1]["step"], f"a step is lost:\n{out}"
    remote.pretrain("term", "--pretrain.checkpoint.every", "1")
    assert_same(f"{remote.bucket}/term", remote.home.path / "here")


def wait_for(process: subprocess.Popen[str], there: Any) -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if there():
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"it did not come to it:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_one_writer(remote: Remote) -> None:
    """A second start of the command is refused by name while the first one runs."""
    process = remote.home.start("llm.pretrain", *remote.args("two", "--pretrain.steps", "100000"))
    wait_for(process, (places.at(remote.bucket) / "two/metrics.jsonl").exists)
    said = remote.pretrain("two", "--pretrain.steps", "100000", status=2)
    assert f"process {process.pid}" in said and "is writing this folder" in said and "Traceback" not in said
    process.kill()
    process.communicate()


def said_by(command: Any, *args: str) -> str:
    """What a command prints, run in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command.main(list(args)) in (0, None)
    return out.getvalue()


def test_commands_read_a_run_from_there(remote: Remote, tmp_path: Path) -> None:
    run, here = f"{remote.bucket}/whole", str(remote.home.path / "here")
    writes = ("--prompt", "def ", "--tokens", "9")
    with remote.s3.failing(20):
        found = [json.loads(said_by(evaluate, r, "--json")) for r in (run, here)]
        assert found[0].pop("text") == f"{remote.bucket}/corpus val" and found[1].pop("text")
        assert found[0] == found[1]
        assert said_by(generate, run, *writes) == said_by(generate, here, *writes)
        said_by(export, run, f"{remote.bucket}/hf")
        said_by(export, here, str(tmp_path / "hf"))
        for file in (tmp_path / "hf").iterdir():
            assert (places.at(remote.bucket) / "hf" / file.name).read_bytes() == file.read_bytes()
        said_by(import_hf, str(tmp_path / "hf"), f"{remote.bucket}/imported")
        said_by(import_hf, str(tmp_path / "hf"), str(tmp_path / "imported"))
        models = (f"{remote.bucket}/imported", str(tmp_path / "imported"))
        assert len({said_by(generate, model, *writes) for model in models}) == 1
        assert said_by(report, run).strip() == f"{run}/report.html"
        said = said_by(verify, f"{remote.bucket}/corpus")
        assert "no problems" in said
    assert b"<html" in (places.at(run) / "report.html").read_bytes()[:500]
    with pytest.raises(UserError, match="nothing is written over"):
        said_by(export, run, f"{remote.bucket}/hf")


def test_a_corpus_that_does_not_fit_the_cache(remote: Remote, tmp_path: Path) -> None:
    """Read by chunk: the same run; and the cache holds no more than it may."""
    most = sum((remote.home.corpus / "shards" / name).stat().st_size for name in remote.shards) - 1
    with remote.s3.failing(20):
        pretrain.main(
            remote.args("ranges", "--cluster.cache_dir", str(tmp_path), "--cluster.cache_bytes", str(most))
        )
    assert_same(f"{remote.bucket}/ranges", remote.home.path / "here")
    assert not list(tmp_path.rglob("*.arrow")) and list(tmp_path.rglob("chunks/*/*"))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*/chunks/*/*")) <= most


def test_training_starts_from_a_model_there(remote: Remote) -> None:
    """pretrain.start_from by a run's URI: the first validation is the last one of that run."""
    start = ("--pretrain.start_from", f"{remote.bucket}/whole")
    with remote.s3.failing(20):
        said_by(pretrain, *remote.args("on", *start, "--pretrain.steps", "1", *ALL))
    before, after = (llm.read_metrics(f"{remote.bucket}/{run}") for run in ("whole", "on"))
    assert after[0]["val_loss"] == before[-1]["val_loss"]


def test_wrong_places_are_one_message(remote: Remote) -> None:
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        (("--pretrain.corpus", f"{remote.bucket}/none"), [f"{remote.bucket}/none", "manifest.json"]),
        (("--pretrain.corpus", "s3://no-bucket/c"), ["s3://no-bucket/c", "there is no bucket"]),
        (("--pretrain.out", "ftp://host/run"), ["ftp://host/run", "s3://"]),
        (("--pretrain.out", f"{remote.bucket}/corpus"), [f"{remote.bucket}/corpus", "no run of ours"]),
    ]
    for extra, words in cases:
        with pytest.raises(UserError) as caught:
            pretrain.main(remote.args("new", *extra))
        assert all(word in str(caught.value) for word in words), caught.value
    assert not (places.at(remote.bucket) / "new").exists()
