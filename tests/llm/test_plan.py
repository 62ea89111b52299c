"""The command that plans: what it prints and counts, without Ray, a corpus, or a process started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import UserError
from cluster.host_memory import memory_bytes
from cluster.recipe import ROOT
from llm.plan import main
from llm.settings import ModelSettings, PretrainSettings
from llm.train.memory import PARTS, memory_of
from tests.llm.folders import make_corpus

MODEL = {"layers": 2, "width": 64, "heads": 2, "context": 128}
PRETRAIN = {"batch": 16, "micro_batch": 4, "length": 128, "workers": 2}
RECIPE: dict[str, Any] = {
    "corpus": {"tokenizer": {"vocab_size": 1000}},
    "model": MODEL,
    "pretrain": PRETRAIN,
}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "pretrain": {**PRETRAIN, "corpus": str(tmp_path / "none")}}))
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_the_numbers_of_every_stage(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, recipe)
    assert found["vocabulary"]["size"] == 1000
    assert "not prepared yet" in found["vocabulary"]["from"]
    (plan,) = found["plans"]
    assert (plan["workers"], plan["micro_batch"], plan["micro_steps"]) == (2, 4, 2)
    by_name = {layout["name"]: layout for layout in plan["layouts"]}
    assert [name for name, layout in by_name.items() if layout["chosen"]] == ["ZeRO 1"]
    settings, model = PretrainSettings.model_validate(PRETRAIN), ModelSettings.model_validate(MODEL)
    for stage in range(4):
        need = memory_of(model, settings.model_copy(update={"zero_stage": stage}), 1000, 2)
        layout = by_name[f"ZeRO {stage}"]
        assert layout["bytes"] == need.device == sum(layout["parts"].values())
        assert list(layout["parts"]) == sorted(PARTS)
        assert layout["checkpoint_copy"] == need.snapshot
        assert layout["fits"] is True
    assert plan["room"]["device"] == memory_bytes() // 2
    assert plan["largest_micro_batch"] == 8


def test_elastic_workers_are_planned_at_both_ends(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, recipe, "--pretrain.workers", "{min: 1, max: 4}")
    assert [plan["workers"] for plan in found["plans"]] == [1, 4]
    states = [p["layouts"][2]["parts"]["optimizer"] for p in found["plans"]]
    assert states[0] == pytest.approx(4 * states[1], rel=0.01)


def test_little_memory_does_not_fit(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([recipe, "--memory", "0.5"]) == 0
    table = capsys.readouterr().out
    assert table.count(" NO ") == 5
    assert "ZeRO 1: not even a micro_batch of 1 fits" in table
    assert "0.50 GiB for each worker, as given" in table


def test_the_table_marks_what_the_recipe_has_chosen(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([recipe, "--pretrain.zero_stage", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (marked,) = (line for line in lines if line.startswith("*"))
    assert "ZeRO 3" in marked and " yes " in marked
    assert any(line.startswith("2 workers, micro-batches of 4 rows, 2 a step") for line in lines)


def test_a_gpu_that_is_not_here_is_planned_for(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, recipe, "--pretrain.device", "cuda")
    (plan,) = found["plans"]
    assert found["device"] == "cuda"
    assert {layout["fits"] for layout in plan["layouts"]} == {None}
    assert plan["largest_micro_batch"] is None
    assert any(layout["offload"]["parameters"] == "cpu" for layout in plan["layouts"])
    plan = planned(capsys, recipe, "--pretrain.device", "cuda", "--memory", "80")["plans"][0]
    assert {layout["fits"] for layout in plan["layouts"]} == {True}


def test_a_cluster_is_not_asked(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, recipe, "--cluster.address", "10.0.0.1:6379")
    assert "10.0.0.1:6379 is not asked" in found["memory"]["of"]
    assert found["plans"][0]["layouts"][0]["fits"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pretrain.length", "512"), "pretrain.length is 512 tokens, model.context 128"),
        (("--memory", "much"), "--memory: must be GiB above 0, is 'much'"),
        (("--pretrain.zero_stag", "1"), "did you mean '--pretrain.zero_stage'"),
    ],
)
def test_what_is_wrong_is_said(recipe: str, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        main([recipe, *words])


def test_no_corpus_and_no_word_of_its_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL, "pretrain": {"corpus": str(tmp_path / "none")}}))
    with pytest.raises(UserError, match=r"no corpus at .*none, and no section 'corpus'"):
        main([str(path)])


def test_the_real_command_is_quick_and_starts_nothing(recipe: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm.plan", recipe, "--pretrain.length", "512"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: pretrain.length")


def test_a_prepared_corpus_says_its_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "pretrain": {**PRETRAIN, "corpus": str(corpus)}}))
    found = planned(capsys, str(path))
    assert found["vocabulary"] == {"size": 400, "from": f"the corpus at {corpus}"}
    assert found["model"]["parameters_by_part"]["token_embedding"] == 400 * MODEL["width"]
