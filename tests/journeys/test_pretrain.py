"""Whole commands on a real small corpus: trained, killed, and continued by the same command."""

from __future__ import annotations

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
from tests.journeys.home import HERE, Home
from tests.journeys.wandb_file import history


def losses(run: Path) -> list[tuple[int, str, str, Any]]:
    """What must be equal to the bit: step, loss, samples, validation."""
    rows = llm.read_metrics(run)
    return [
        (
            r["step"],
            r.get("loss", 0.0).hex(),
            r.get("sample_digest", ""),
            {name: value for name, value in r.items() if name.startswith("val_")},
        )
        for r in rows
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(llm.load(run).model.named_parameters())


def assert_same_run(run: Path, whole: Path) -> None:
    assert [row[0] for row in losses(whole)] == list(range(len(losses(whole))))
    assert losses(run) == losses(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(run)[name], value), name
    if (whole / "samples.jsonl").exists():
        assert (run / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    ids, rows = history(run)
    assert len(ids) == 1, "restarts must stay one W&B run"
    assert {step: row.get("loss") for step, row in rows.items()} == {
        row["step"]: row.get("loss") for row in llm.read_metrics(run)
    }


@pytest.mark.ray
def test_trains_and_tracks(whole: Path) -> None:
    assert_same_run(whole, whole)
    rows = llm.read_metrics(whole)
    assert rows[20]["val_loss"] < rows[0]["val_loss"] - 0.1
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["finished"] and summary["steps"] == 20 and summary["attempts"] == 1
    assert json.loads((whole / "deepspeed.json").read_text())["zero_optimization"]["stage"] == 1
    assert len((whole / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.ray
def test_a_killed_worker_changes_nothing(home: Home, whole: Path) -> None:
    """SIGKILL of worker 1 in step 8: Ray restarts the group, which goes on from step 5."""
    home.pretrain(
        "worker",
        MANTA_FAULT="train.step:step=8:rank=1",
        MANTA_FAULT_ONCE=str(home.path / "worker-was-killed"),
    )
    assert (home.path / "worker-was-killed").exists()
    assert_same_run(home.path / "worker", whole)
    assert json.loads((home.path / "worker/summary.json").read_text())["attempts"] == 2


@pytest.mark.ray
def test_a_killed_driver_changes_nothing(home: Home, whole: Path) -> None:
    """SIGKILL of the driver after step 12, when checkpoints were swept already; then the same command."""
    run, keep_one = home.path / "driver", ("--pretrain.checkpoint.keep", "1")  # the reported ones are swept
    process = home.start("llm.pretrain", *home.pretrain_args("driver", *keep_one))
    wait_for_step(process, run, 12)
    process.kill()
    process.communicate()
    assert not (run / "summary.json").exists(), "too late: it was finished"
    home.pretrain("driver", *keep_one)
    assert_same_run(run, whole)
    assert "finished" in home.pretrain("driver"), "a finished run is left alone"
    assert_same_run(run, whole)


@pytest.mark.ray
def test_sigterm_makes_a_checkpoint_and_continues(home: Home, whole: Path) -> None:
    run = home.path / "term"
    process = home.start("llm.pretrain", *home.pretrain_args("term"))
    wait_for_step(process, run, 6)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143, out
    assert "the same command continues" in out
    stopped_at = llm.read_metrics(run)[-1]["step"]
    assert llm.load(run).step == stopped_at, f"a step is lost:\n{out}"
    home.pretrain("term")
    assert_same_run(run, whole)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and any(r["step"] >= step for r in llm.read_metrics(run)):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"step {step} was not reached:\n{process.communicate()[0]}")


@pytest.mark.ray
def test_one_worker_sees_the_samples_of_two(home: Home, whole: Path) -> None:
    """The same sample digest at every step, losses within 1e-4; in one process, without Ray."""
    home.pretrain("one", *HERE)
    for one, two in zip(llm.read_metrics(home.path / "one"), llm.read_metrics(whole), strict=True):
        assert one.get("sample_digest") == two.get("sample_digest")
        assert one.get("loss", 0) == pytest.approx(two.get("loss", 0), rel=1e-4)


@pytest.fixture(scope="module")
def one(home: Home) -> Path:
    """A finished run of one process."""
    home.pretrain("alone", *HERE, "--pretrain.steps", "10")
    return home.path / "alone"


def test_evaluate_and_generate(home: Home, one: Path, tmp_path: Path) -> None:
    found = json.loads(home.call("llm.evaluate", str(one), "--json", "--precision", "fp32").splitlines()[-1])
    last = llm.read_metrics(one)[-1]
    assert found["loss"] == pytest.approx(last["val_loss"], rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(last["bits_per_byte"], rel=1e-5)
    text = tmp_path / "text.py"
    text.write_text("def f(x):\n    return x\n")
    found = json.loads(home.call("llm.evaluate", str(one), "--text", str(text), "--json").splitlines()[-1])
    assert found["bytes"] == len(text.read_bytes())
    assert found["tokens"] == len(llm.load(one).tokenizer.encode(text.read_text())) + 1
    said = [
        home.call("llm.generate", str(one), "--prompt", "def ", "--tokens", "9", "--seed", s) for s in "112"
    ]
    assert said[0] == said[1] != said[2]
    assert said[0].startswith("def ")


def test_text_loss_equals_one_long_forward(home: Home, one: Path, tmp_path: Path) -> None:
    """Bits per byte against the formula written out with transformers-free torch."""
    loaded = llm.load(one)
    text = "import json\n" * 8  # fits one window
    file = tmp_path / "text.py"
    file.write_text(text)
    ids = torch.tensor(
        [loaded.tokenizer.eos_id, *(int(i) for i in loaded.tokenizer.encode(text)), loaded.tokenizer.eos_id]
    )
    assert len(ids) <= 64
    with torch.no_grad():
        logits = loaded.model(ids[None, :-1])[0]
    nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    found = json.loads(home.call("llm.evaluate", str(one), "--text", str(file), "--json").splitlines()[-1])
    assert found["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / len(text), rel=1e-4)


def test_wrong_inputs_are_one_message(home: Home, one: Path, tmp_path: Path) -> None:
    """Exit 2 or 1, no traceback, the field or file named, the run untouched."""
    before = (one / "metrics.jsonl").read_bytes()
    args = (*HERE, "--pretrain.steps", "10")
    cases: list[tuple[str, tuple[str, ...], int, list[str]]] = [
        (
            "alone",
            (*args, "--pretrain.optimizer.lr", "0.1"),
            2,
            ["pretrain.optimizer.lr", "0.003", "0.1", "--fresh"],
        ),
        ("alone", (*args, "--model.width", "64"), 2, ["model.width", "32", "64"]),
        ("alone", (*HERE, "--pretrain.steps", "11"), 2, ["pretrain.steps", "--accept"]),
        ("new", ("--pretrain.bacth", "3"), 2, ["--pretrain.bacth", "--pretrain.batch"]),
        ("new", ("--pretrain.batch", "many"), 2, ["--pretrain.batch", "'many'"]),
        ("new", ("--pretrain.batch", "1"), 2, ["batch (1)", "workers (2)"]),
        ("new", ("--pretrain.corpus", str(tmp_path)), 2, [str(tmp_path), "manifest.json"]),
        ("new", ("--pretrain.length", "65"), 2, ["pretrain.length", "65", "64"]),
        ("new", ("--pretrain.lenght", "65"), 2, ["--pretrain.length"]),
        ("new", ("--pretrain.weights", "{stdlob: 1}"), 2, ["stdlob", "stdlib"]),
        ("new", ("--pretrain.optimizer.lr", ".inf"), 2, ["--pretrain.optimizer.lr", "finite"]),
        ("alone", (*args, "--pretrain.batch", "8", "--accept", "pretrain.batch"), 2, ["pretrain.batch"]),
    ]
    for run, extra, status, words in cases:
        out = home.pretrain(run, *extra, status=status)
        assert "Traceback" not in out, out
        assert all(word in out for word in words), out
    assert (one / "metrics.jsonl").read_bytes() == before
    assert not (home.path / "new").exists()


def test_a_run_that_blows_up_ends_before_its_checkpoint(home: Home) -> None:
    """Not finite: exit 1, the step named, and what was saved before is good."""
    changes = ("--pretrain.optimizer.lr", "1e30", "--pretrain.schedule.warmup_steps", "0")
    out = home.pretrain("wild", *HERE, *changes, "--pretrain.checkpoint.every", "1", status=1)
    assert "the last checkpoint is good" in out and "Traceback" not in out, out
    for value in weights(home.path / "wild").values():
        assert value.isfinite().all()


def test_an_accepted_field_goes_on_from_where_it_was(home: Home) -> None:
    home.pretrain("longer", *HERE, "--pretrain.steps", "8")
    home.pretrain("longer", *HERE, "--pretrain.steps", "12", "--accept", "pretrain.steps")
    rows = llm.read_metrics(home.path / "longer")
    assert [row["step"] for row in rows] == list(range(13))
    accepted = json.loads((home.path / "longer/settings.json").read_text())["accepted"]
    assert [(a["field"], a["old"], a["new"]) for a in accepted] == [("pretrain.steps", 8, 12)]


def test_a_changed_shard_ends_the_run(home: Home, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    subprocess.run(["cp", "-r", home.corpus, corpus], check=True)
    shard = next(corpus.glob("shards/*train*"), None) or next(
        p for p in corpus.rglob("*.arrow") if "train" in str(p)
    )
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    out = home.pretrain("changed", *HERE, "--pretrain.corpus", str(corpus), status=1)
    assert "Traceback" not in out and shard.name in out and "digest" in out, out


def test_damaged_checkpoints_never_mean_step_0(home: Home, tmp_path: Path) -> None:
    """All checkpoints damaged: exit 1, each named. The newest alone: the one before, and the same end."""
    run = home.path / "damaged"
    home.pretrain("damaged", *HERE, "--pretrain.steps", "10")
    want = losses(run)
    (run / "summary.json").unlink()  # as if it had been killed before it could say that it was done
    newest, older = sorted(run.glob("checkpoints/step-*"), reverse=True)
    for folder in (newest, older):
        file = next(folder.glob("optim-*"))
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
        if folder == newest:
            good = older / file.name
            saved = good.read_bytes()
    out = home.pretrain("damaged", *HERE, "--pretrain.steps", "10", status=1)
    assert "Traceback" not in out and newest.name in out and older.name in out and "--fresh" in out, out
    good.write_bytes(saved)
    out = home.pretrain("damaged", *HERE, "--pretrain.steps", "10")
    assert f"warning: checkpoint passed over: {newest}" in out
    assert losses(run) == want


NO_TEXT = ("--pretrain.samples.every", "0", "--pretrain.validation.every", "0")
REWIND = {"spike_sigma": 20, "window": 8, "on_spike": "rewind", "rewind_steps": 0}


def test_a_batch_that_is_not_finite_is_skipped(home: Home) -> None:
    """The run ends well; its line says which samples; the page and the summary count it."""
    home.pretrain("bad", *HERE, *NO_TEXT, MANTA_FAULT="train.loss:sample=25:nan")
    lines = (home.path / "bad/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN is no JSON
    assert [(r["step"], r["skipped"], r["skipped_samples"]) for r in rows if "skipped" in r] == [
        (7, "loss", [[24, 28]])
    ]
    assert json.loads((home.path / "bad/summary.json").read_text())["skipped_steps"] == 1
    home.call("llm.report", str(home.path / "bad"))


def test_a_rewind_killed_and_continued_is_a_run_without_the_batch(home: Home) -> None:
    """Spike at step 13, back to 10, SIGKILL in step 13 on the way again: the same command ends the same."""
    flags = [word for key, value in REWIND.items() for word in (f"--pretrain.guard.{key}", str(value))]
    args = (*HERE, *NO_TEXT, *flags, "--pretrain.engine", "plain")
    faults = "train.loss:sample=49:1000;train.step:sample=52"  # 52: the first one after what is left out
    out = home.pretrain("spike", *args, status=-9, MANTA_FAULT=faults)
    assert "step 13: a spike" in out and "back to step 10; samples 48 to 51 are left out" in out, out
    home.pretrain("spike", *args, MANTA_FAULT="train.loss:sample=49:1000")
    home.pretrain("without", *args, "--pretrain.skip_samples", "[[48, 52]]")
    spike, without = (losses(home.path / name)[1:] for name in ("spike", "without"))
    assert [row[:3] for row in spike] == [row[:3] for row in without]
    rows = llm.read_metrics(home.path / "spike")
    assert [row["step"] for row in rows] == list(range(21))
    assert [(r["step"], r["rewound_from"]) for r in rows if "rewound_from" in r] == [(11, 13)]
    summary = json.loads((home.path / "spike/summary.json").read_text())
    assert summary["state"]["guard"]["left_out"] == [[48, 52]]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
