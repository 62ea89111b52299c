"""`llm.evaluate` on fine-tuned runs: the numbers of the part, by one process or two; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llm
from cluster import places
from cluster.errors import UserError
from llm import evaluate
from llm.evaluation.subject import never_written
from llm.model.generation import generate_uncached
from llm.model.sampling import Sampling
from llm.tasks.examples import open_examples
from llm.tasks.scoring import evaluate_part
from llm.train.group import Group
from llm.train.objective import Objective
from tests.llm.evaluation.run_folders import finetuned
from tests.llm.tasks.example_sets import KINDS, LABELS, LENGTH, records

CASES = [
    (kind, model) for kind in KINDS for model in ("gpt", "bert") if (kind, model) != ("instruction", "bert")
]


def told(capsys: pytest.CaptureFixture[str], run: Path, *flags: str) -> dict[str, Any]:
    assert evaluate.main([str(run), "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_the_numbers_are_those_of_the_test_part(
    kind: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetuned(kind, tmp_path, model)
    found = told(capsys, run, "--bootstrap", "50")
    loaded = llm.load(run)
    part = open_examples(places.at(loaded.settings["examples"]["path"])).part("test", weighted=False)
    assert part is not None
    objective = Objective(loaded.model, "fp32").eval()
    wanted = evaluate_part(loaded.model, objective, part, Group(0, 1, torch.device("cpu")), 16)
    assert {name: each["value"] for name, each in found["metrics"].items()} == wanted.numbers
    for each in found["metrics"].values():
        assert each["low"] <= each["high"]
    assert (found["kind"], found["step"], found["data"]) == (kind, 5, "test part")
    assert found["examples"] == wanted.judged.examples and found["rows"] == part.rows
    assert evaluate.main([str(run)]) == 0
    words = capsys.readouterr().out
    assert words.startswith(f"test part: {kind}, {found['examples']} examples in {part.rows} rows, step 5\n")
    assert "  loss" in words and "(95 %: " in words
    if kind in ("classification", "token_classification"):
        truth = [sum(row) for row in found["confusion"]]
        assert truth == [row["examples"] for row in found["classes"]]
        assert [row["label"] for row in found["classes"]] == list(LABELS)
        assert "true class (down) taken for (across):" in words
        assert words.count("f1_good") == 0, "each class has its line in the table"


def test_two_processes_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finetuned("classification", tmp_path)
    flags = ["--batch", "3", "--bootstrap", "50"]
    torch.set_num_threads(1)  # as each of two on two CPUs has it
    one, two = told(capsys, run, *flags), told(capsys, run, *flags, "--workers", "2")
    for name, each in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(each, rel=1e-6, abs=1e-12)
    assert {**one, "metrics": 0} == {**two, "metrics": 0}


def test_another_part_and_no_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, finetuned("regression", tmp_path), "--split", "train", "--bootstrap", "0")
    assert found["data"] == "train part" and found["examples"] > 15
    assert all(set(each) == {"value"} for each in found["metrics"].values())
    assert "confusion" not in found and "classes" not in found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_examples_is_read_as_the_run_reads(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the run's own test part gives the numbers of that part."""
    run = finetuned(kind, tmp_path)
    part = open_examples(tmp_path / "examples").part("test")
    assert part is not None
    every = records(kind, 30)
    file = tmp_path / "others.jsonl"
    lines = [json.dumps(every[line - 1]) for line in part.references().lines.tolist()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    own, other = (
        told(capsys, run, "--bootstrap", "0"),
        told(capsys, run, "--data", str(file), "--bootstrap", "0"),
    )
    assert other["data"] == str(file) and other["examples"] == own["examples"]
    assert other["metrics"] == own["metrics"]


def test_what_is_odd_about_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finetuned("classification", tmp_path)
    file = tmp_path / "others.jsonl"
    file.write_text('{"text": "the sea", "label": "good"}\n', encoding="utf-8")
    assert told(capsys, run, "--data", str(file))["examples"] == 1, "one class only is nothing odd here"
    file.write_text('{"text": "the sea", "label": "goood"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="'goood'.*did you mean 'good'"):
        evaluate.main([str(run), "--data", str(file)])
    file.write_text('{"tekst": "the sea", "label": "good"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no field 'text'"):
        evaluate.main([str(run), "--data", str(file)])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_instruction_model_writes_its_answers(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetuned("instruction", tmp_path)
    found = told(capsys, run, "--generate", "--batch", "4", "--bootstrap", "20", "--workers", workers)
    loaded = llm.load(run)
    part = open_examples(tmp_path / "examples").part("test")
    assert part is not None
    references = part.references()
    assert references.prompts is not None and references.answers is not None
    sampling = Sampling(
        tokens=LENGTH // 2,
        temperature=0,
        stop=loaded.tokenizer.eos_id,
        forbidden=tuple(never_written(loaded)),
    )
    wanted = []
    for number in range(references.examples):
        prompt = references.prompts[number].tolist()
        drawn = generate_uncached(loaded.model, prompt, sampling, LENGTH)
        wanted.append(loaded.tokenizer.decode(list(drawn)))
    assert found["answers"] == wanted and len(wanted) == 10
    assert list(found["metrics"]) == ["loss", "perplexity", "token_accuracy", "exact_match", "f1"]


@pytest.mark.parametrize(
    ("kind", "flags", "says"),
    [
        ("classification", ["--split", "val"], "has no such part; it has train, test"),
        ("classification", ["--data", "x.jsonl"], "--data: .*x.jsonl: no such file"),
        ("classification", ["--data", "x.jsonl", "--split", "test"], "--data and --split: give one of them"),
        ("classification", ["--length", "8"], "--length: is for a text file"),
        ("classification", ["--generate"], "classification, which writes no answers"),
        ("classification", ["--bootstrap", "-1"], "--bootstrap must be 0"),
        ("classification", ["--text", "README.md"], "has the head of a task"),
        ("instruction", ["--text", "README.md", "--data", "x"], "--data: is for a fine-tuned run"),
        ("classification", ["--workers", "0"], "--workers and --batch must be at least 1"),
    ],
)
def test_what_is_refused(kind: str, flags: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        evaluate.main([str(finetuned(kind, tmp_path)), *flags])


def test_examples_that_are_gone_or_others_are_refused(tmp_path: Path) -> None:
    run = finetuned("classification", tmp_path)
    settings = json.loads((run / "settings.json").read_text())
    settings["examples"]["digest"] = "another"
    (run / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="not the examples that the run was trained on.*--data FILE"):
        evaluate.main([str(run)])
    (tmp_path / "examples/examples.json").unlink()
    with pytest.raises(UserError, match="no examples of this version.*--data FILE"):
        evaluate.main([str(run)])
