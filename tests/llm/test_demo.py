"""The demo's parts: seconds by stage, baselines against the real compressors, summary, page."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import f1_score

from cluster.errors import RunError
from cluster.recipe import load_recipe
from llm import demo, demo_baselines, demo_models, demo_results, demo_stages
from llm.demo_results import Folders
from llm.pages.corpus import corpus_numbers
from llm.pages.journey import baseline_rows, guess_words, journey_body, judge_words
from llm.pages.page import page
from llm.pages.sweep_numbers import sweep_numbers
from llm.pages.training import run_numbers
from llm.settings import FinetuneSettings
from tests.llm.folders import CORPUS_TEXTS, HOSTILE, SPACE, make_corpus, write_run, write_sweep
from tests.llm.test_report import ROOT, Elements, check_charts

TEXT = (Path(os.__file__).read_text(encoding="utf-8") + "中文 Ωμέγα 🙂\n").encode()


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_baselines_agree_with_the_command_line(name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"no {name} on this machine")
    ours = demo_baselines.compressed_bits_per_byte(TEXT)[f"{name}_bits_per_byte"] * len(TEXT) / 8
    theirs = len(subprocess.run([name, "-9", "-c"], input=TEXT, capture_output=True, check=True).stdout)
    assert abs(ours - theirs) <= 32  # gzip keeps a time and a name in its header


def test_bits_per_byte_count_bytes_and_not_characters() -> None:
    text = ("é" * 100_000).encode()
    bits = 8 * len(lzma.compress(text, preset=9)) / 200_000
    assert demo_baselines.compressed_bits_per_byte(text)["xz_bits_per_byte"] == pytest.approx(bits)
    with pytest.raises(RunError, match="no validation text"):
        demo_baselines.compressed_bits_per_byte(b"")


@pytest.mark.parametrize(
    ("entry", "before", "after", "expected"),
    [
        (None, None, "a", {"spent": 5.0, "finished": True}),  # done in one go
        (None, None, None, {"spent": 5.0, "finished": False}),  # stopped
        ({"spent": 90.0, "finished": False}, None, "a", {"spent": 95.0, "finished": True}),  # went on
        ({"spent": 180.0, "finished": True}, "a", "a", {"spent": 180.0, "finished": True}),  # nothing to do
        ({"spent": 180.0, "finished": True}, None, "a", {"spent": 5.0, "finished": True}),  # was deleted
        ({"spent": 180.0, "finished": True}, "a", "b", {"spent": 5.0, "finished": True}),  # done anew
        (None, "a", "a", {"spent": 5.0, "finished": True}),  # ledger was lost
    ],
)
def test_seconds_are_those_of_the_work(entry: Any, before: Any, after: Any, expected: dict[str, Any]) -> None:
    assert demo_stages.spent_after(entry, 5.0, before, after) == expected


def test_a_second_run_keeps_the_seconds_of_the_first(tmp_path: Path) -> None:
    mark, ledger = tmp_path / "done", tmp_path / "seconds.json"

    def work() -> None:
        if not mark.exists():
            time.sleep(0.3)
            mark.write_text("done")

    stage = demo_stages.Stage("work", 1, (mark,), work)
    demo_stages.run_stage(stage, ledger)
    first = json.loads(ledger.read_text())
    assert first["work"]["spent"] >= 0.3 and first["work"]["finished"]
    demo_stages.run_stage(stage, ledger)
    assert json.loads(ledger.read_text()) == first


def test_a_failed_stage_enters_its_seconds_and_gives_its_status(tmp_path: Path) -> None:
    broken = demo_stages.Stage(
        "work", 1, (tmp_path / "done",), lambda: demo_stages.call("json.tool", "/nowhere") and None
    )
    ledger = tmp_path / "seconds.json"
    with pytest.raises(demo_stages.CommandFailed) as failure:
        demo_stages.run_stage(broken, ledger)
    assert failure.value.status in (1, 2)
    assert json.loads(ledger.read_text())["work"]["finished"] is False


def test_budgets_are_under_fifteen_minutes() -> None:
    stages = demo.demo_stages(FOLDERS)
    assert sum(stage.budget for stage in stages) < 900
    assert [stage.name for stage in stages] == [
        "prepare", "pretrain", "pretrain a bert", "pairs", "sweep", "from nothing", "evaluate", "generate",
        "compress",
    ]  # fmt: skip
    marks = [mark for stage in stages for mark in stage.marks]
    assert len(set(marks)) == len(marks) and all(stage.marks for stage in stages)


def test_the_demo_lies_where_its_recipes_say() -> None:
    at = demo.demo_folders()
    assert (at.corpus, at.gpt, at.bert, at.sweep) == tuple(
        demo.HOME / name for name in ("corpus", "pretrain", "bert", "sweep")
    )
    finetune = load_recipe(demo_models.SWEEP_RECIPE).need(FinetuneSettings)
    assert finetune.start_from == str(at.bert) and finetune.data.test == str(at.pairs / "test.jsonl")
    assert {"finetune.data.text", "finetune.data.label"} <= {
        f"finetune.data.{name}" for name in type(finetune.data).model_fields
    }


def test_output_is_returned_or_passed_on_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert json.loads(demo_stages.call("json.tool", str(file), capture=True)) == {"a": 1}
    assert '"a"' not in capfd.readouterr().out
    demo_stages.call("json.tool", str(file))
    assert '"a": 1' in capfd.readouterr().out


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_command_and_the_demo_waits_for_it(
    tmp_path: Path, sent: int, status: int
) -> None:
    (tmp_path / "slow_command.py").write_text(
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.5); print('saved', flush=True); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
        "print('started', flush=True)\ntime.sleep(60)\n"
    )
    start = "from cluster import errors; from llm import demo_stages; "
    start += "errors.run_command(lambda _: demo_stages.call('slow_command'))"
    process = subprocess.Popen(
        [sys.executable, "-c", start], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline().strip() != "started":
        assert process.poll() is None
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert "saved" in out and "continues" in err
    assert process.returncode == status


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_validation_documents_are_those_of_the_corpus(corpus: Path) -> None:
    found = list(demo_baselines.validation_documents(corpus))
    manifest = json.loads((corpus / "manifest.json").read_text())
    totals = manifest["sources"][0]["splits"]["val"]
    assert len(found) == totals["documents"] > 5
    assert len("".join(found).encode()) == totals["bytes"]
    assert set(found) <= {text for text in CORPUS_TEXTS if text}


def test_baselines_of_a_corpus_are_computed_once(corpus: Path, tmp_path: Path) -> None:
    result = tmp_path / "baselines.json"
    demo_baselines.compress(corpus, result)
    found = json.loads(result.read_text())
    assert found["bytes"] == len("".join(demo_baselines.validation_documents(corpus)).encode())
    assert 0 < found["xz_bits_per_byte"] < 8
    os.utime(result, (1, 1))
    demo_baselines.compress(corpus, result)
    assert result.stat().st_mtime == 1
    result.write_text(json.dumps({**found, "corpus_id": "another"}))
    demo_baselines.compress(corpus, result)
    assert json.loads(result.read_text()) == found


GUESSES = {
    "text": "corpus val", "step": 120, "mlm_loss": 4.5, "masked_accuracy": 0.25, "unigram_accuracy": 0.04,
    "masked_tokens": 9000, "pairs": 2100, "nsp_loss": 0.6, "nsp_accuracy": 0.61,
    "nsp_accuracy_interval": [0.589, 0.631],
}  # fmt: skip
FILLINGS = [
    {
        "prompt": HOSTILE,
        "text": HOSTILE,
        "masks": [{"position": 3, "candidates": [{"token": 9, "text": HOSTILE, "probability": 0.4}]}],
    }
]


FOLDERS = Folders(*(Path(name) for name in ("home", "corpus", "run", "bert", "sweep", "nothing")))


def told(**metrics: float) -> dict[str, Any]:
    """What llm.evaluate prints of a task."""
    return {
        "data": "test part", "examples": 704,
        "metrics": {name: {"value": v, "low": v - 0.03, "high": v + 0.04} for name, v in metrics.items()},
    }  # fmt: skip


TOLD = told(accuracy=0.7, precision_macro=0.71, recall_macro=0.72, f1_macro=0.69)
NOTHING = told(accuracy=0.55, precision_macro=0.56, recall_macro=0.55, f1_macro=0.52)
PAIRS = {
    "parts": {
        part: {"pairs": pairs, "modules": 8, "own": pairs // 2, "other": pairs // 2, "same_module": 20}
        for part, pairs in (("train", 8330), ("val", 1058), ("test", 704))
    },
    "left_out": {},
}


def summary_of(corpus: Path, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    run = run_numbers(write_run(tmp_path / "run"))
    budgets = {stage.name: stage.budget for stage in demo.demo_stages(FOLDERS)}
    baselines = {"gzip_bits_per_byte": 1.9, "xz_bits_per_byte": 1.7, "bytes": 9}
    seconds = {"prepare": {"spent": 40.5, "finished": True}}
    evaluation = {"bits_per_byte": 1.25, "loss": 2.0}
    summary = demo_results.assemble_summary(
        corpus_numbers(corpus), run, evaluation, baselines, budgets, seconds
    )
    bert = {**run, "summary": {**run["summary"], "tokens_per_second": 20_000.0}}
    sweep = sweep_numbers(write_sweep(tmp_path / "sweep"))
    summary["bert"] = demo_results.summarise_bert(bert, GUESSES)
    summary["sweep"] = demo_results.summarise_sweep(sweep, TOLD, NOTHING, PAIRS["parts"]["test"])
    return summary, run, sweep


def test_summary(corpus: Path, tmp_path: Path) -> None:
    summary, run, sweep = summary_of(corpus, tmp_path)
    manifest = json.loads((corpus / "manifest.json").read_text())
    splits = manifest["sources"][0]["splits"]
    assert summary["corpus"] == {
        "documents_in": len(CORPUS_TEXTS) + 1, "documents_out": len(set(CORPUS_TEXTS)) - 1,
        "dropped": {"duplicate": 7, "empty": 1, "invalid_json": 1},
        "train_tokens": splits["train"]["tokens"], "val_tokens": splits["val"]["tokens"], "shards": 2,
    }  # fmt: skip
    key = run["key_numbers"]
    same = ("steps", "first_val_loss", "val_loss", "tokens_per_second")
    assert summary["gpt"] == {
        "parameters": 12345,
        "workers": 2,
        "zero_stage": 2,
        "bits_per_byte": 1.25,
        **{name: key[name] for name in same},
    }
    assert summary["gpt"]["first_val_loss"] > summary["gpt"]["val_loss"]
    assert summary["baselines"] == {"gzip_bits_per_byte": 1.9, "xz_bits_per_byte": 1.7}
    assert summary["bert"] == {
        "parameters": 12345, "workers": 2, "zero_stage": 2, "tokens_per_second": 20_000.0, "steps": 120,
        **{name: value for name, value in GUESSES.items() if name not in ("text", "step", "nsp_loss")},
    }  # fmt: skip
    assert summary["sweep"] == {
        "trials": 12, "stopped_early": 5, "average": "macro", "pairs": 704,
        "best": {
            "settings": sweep["best"]["settings"], "accuracy": 0.7, "precision": 0.71, "recall": 0.72,
            "f1": 0.69,
        },
        "f1_intervals": {
            "best": pytest.approx([0.66, 0.73]), "from_scratch": pytest.approx([0.49, 0.56]),
        },
        "from_scratch_accuracy": 0.55, "from_scratch_f1": 0.52, "majority_accuracy": 0.5,
        "majority_f1": pytest.approx(1 / 3),
    }  # fmt: skip
    assert set(sweep["best"]["settings"]) == set(SPACE)
    assert summary["seconds"]["prepare"] == {"budget": 50, "spent": 40.5}
    assert summary["seconds"]["pretrain"] == {"budget": 265, "spent": None}
    assert [name for name, _ in baseline_rows(summary)] == ["GPT", "xz -9", "gzip -9"]


def test_the_page_of_the_demo(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, run, sweep = summary_of(corpus, tmp_path)
    texts = [{"prompt": HOSTILE, "text": HOSTILE + "rest"}]
    numbers = {
        "summary": summary, "corpus": corpus_numbers(corpus), "run": run, "bert": run, "sweep": sweep,
        "pairs": PAIRS, "texts": texts, "fillings": FILLINGS,
    }  # fmt: skip
    body, charts = journey_body(numbers)
    html = page("demo", "lead", body, charts)
    check_charts(html)
    assert len({chart.name for chart in charts}) == len(charts)
    elements = Elements(html)
    assert "img" not in elements.tags and elements.tags.count("script") == 3
    assert {
        "baselines",
        "funnel",
        "budget",
        "loss",
        "throughput",
        "bert-loss",
        "judges",
        "sweep-losses",
        "sweep-metric",
        "sweep-parallel",
    } <= {chart.name for chart in charts}
    demo_results.print_results(numbers, FOLDERS.home)
    out = capsys.readouterr().out
    assert out.count("rest") == 1 and "40 %" in out
    assert (
        "rest" in out
        and "1.250" in out
        and "0.610 of 2,100 pairs" in out
        and "1.700" in out
        and "report.html" in out
    )
    assert "704 pairs" in out and "from nothing, same settings" in out and "0.690" in out


def test_everything_is_drawn_from_what_the_stages_leave(corpus: Path, tmp_path: Path) -> None:
    at = Folders(tmp_path, corpus, *(tmp_path / name for name in ("gpt", "bert", "sweep", "nothing")))
    run = {"parameters": 1, "workers": 2, "zero_stage": 1, "tokens_per_second": 20_000.0}
    for folder in (at.gpt, at.bert):
        write_run(folder, **{"summary.json": json.dumps(run)})
    write_sweep(at.sweep)
    for folder in (at.best, at.from_nothing, at.pairs):
        folder.mkdir()
    left = {
        at.told: TOLD, at.told_from_nothing: NOTHING, at.pairs / "pairs.json": PAIRS,
        at.result("evaluation"): {"bits_per_byte": 1.25}, at.result("guesses"): GUESSES,
        at.result("texts"): {"texts": []}, at.result("fillings"): {"fillings": FILLINGS},
        at.result("baselines"): {"gzip_bits_per_byte": 1.9, "xz_bits_per_byte": 1.7},
        at.result("seconds"): {},
    }  # fmt: skip
    for path, value in left.items():
        path.write_text(json.dumps(value))
    numbers = demo_results.draw(at, {"prepare": 50})
    assert json.loads((tmp_path / "summary.json").read_text()) == numbers["summary"]
    assert json.loads((tmp_path / "report.json").read_text()) == numbers
    assert numbers["summary"]["sweep"]["best"]["f1"] == 0.69
    check_charts((tmp_path / "report.html").read_text())
    stamp = (tmp_path / "report.html").stat().st_mtime_ns
    assert demo_results.draw(at, {"prepare": 50}) == numbers
    assert (tmp_path / "report.html").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("text", "probability", "words"),
    [
        (" not", 0.526, "not 53 %"),
        ("\n\n    ", 0.13, "(2 newlines and 4 blanks) 13 %"),
        ("\n", 0.0999, "(a newline) 10 %"),
        ("", 0.5, "(nothing) 50 %"),
        ("key", 0.0025, "key under 1 %"),
    ],
)
def test_a_guess_in_words(text: str, probability: float, words: str) -> None:
    assert guess_words(text, probability) == words


def test_a_file_that_would_not_change_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    demo_results.write_changed(path, b"1")
    os.utime(path, (1, 1))
    demo_results.write_changed(path, b"1")
    assert path.stat().st_mtime == 1
    demo_results.write_changed(path, b"2")
    assert path.read_bytes() == b"2" and path.stat().st_mtime != 1


def test_results_of_an_older_checkpoint_are_not_reused(tmp_path: Path) -> None:
    index, result = (
        tmp_path / "checkpoints" / "step-000000001-ab" / "index.json",
        tmp_path / "evaluation.json",
    )
    index.parent.mkdir(parents=True)
    index.write_text("{}")
    assert not demo_stages.is_newer(result, tmp_path)
    result.write_text("{}")
    os.utime(index, (10, 10))
    os.utime(result, (20, 20))
    assert demo_stages.is_newer(result, tmp_path)
    os.utime(index, (30, 30))
    assert not demo_stages.is_newer(result, tmp_path)


@pytest.mark.parametrize(
    ("best", "fresh", "words"),
    [
        ([0.6, 0.7], [0.48, 0.55], "From pretrained weights is better than from fresh ones."),
        ([0.48, 0.55], [0.56, 0.7], "From fresh weights is better than from pretrained ones."),
        ([0.55, 0.7], [0.5, 0.6], "overlap: these pairs do not tell which is better."),
        ([0.42, 0.49], [0.32, 0.35], "Neither training is told apart from a coin"),
    ],
)
def test_what_the_intervals_allow_to_say(best: list[float], fresh: list[float], words: str) -> None:
    assert words in judge_words({"f1_intervals": {"best": best, "from_scratch": fresh}})


def test_the_majoritys_f1_is_scikit_learns() -> None:
    for own, other in ((50, 50), (70, 30), (1, 99)):
        truth = ["own"] * own + ["other"] * other
        guess = ["own" if own >= other else "other"] * len(truth)
        expected = f1_score(truth, guess, average="macro", zero_division=0)
        assert demo_results.constant_f1([own, other]) == pytest.approx(expected)


def test_from_nothing_takes_the_best_settings_and_sets_another_run_aside() -> None:
    best = {"finetune.optimizer.lr": 0.003, "finetune.task.loss": "hinge"}
    wanted = [
        "demo-sweep", "--finetune.from_scratch", "true", "--finetune.out", "nothing",
        "--finetune.launch", "here",
        "--finetune.optimizer.lr", "0.003", "--finetune.task.loss", "hinge",
    ]  # fmt: skip
    record = {"finetune": {"optimizer": {"lr": 0.003}, "task": {"loss": "cross_entropy"}}}
    for there, words in (
        (None, wanted),
        (record, [*wanted, "--fresh"]),
        ({"finetune": {"optimizer": {"lr": 0.003}, "task": {"loss": "hinge"}}}, wanted),
    ):
        assert demo_models.words_from_nothing(best, Path("nothing"), there) == words


@pytest.mark.parametrize(("value", "text"), [(1e-4, "0.0001"), ("own", "own"), (True, "true"), ([1], "[1]")])
def test_a_setting_as_a_flag(value: Any, text: str) -> None:
    assert demo_models.flag_text(value) == text
