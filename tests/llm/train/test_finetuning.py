"""A whole fine-tuning in this process: goes on as if never stopped, ends early, keeps its best, refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import llm.finetune
from cluster.errors import UserError
from cluster.recipe import load_recipe
from data_jobs import open_corpus
from llm.loading import load
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.run_folder import RunFolder, read_metrics
from tests.llm.folders import make_corpus
from tests.llm.train.test_start import write_model

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = {"good": ["fine", "warm", "kind", "bright"], "bad": ["cold", "grim", "dull", "rough"]}
COMMON = {
    "length": 16,
    "batch": 8,
    "micro_batch": 4,
    "steps": 12,
    "engine": "plain",
    "launch": "here",
    "device": "cpu",
    "cpus_per_worker": 1,
    "optimizer": {"lr": 3e-3},
    "validation": {"every": 4, "batch": 8},
    "checkpoint": {"every": 4, "keep": 1, "keep_best": 1},
    "wandb": {"mode": "disabled"},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT with fresh weights."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = open_corpus(make_corpus(folder)).tokenizer
    return write_model(folder / "model", tokenizer, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of words that tell their class."""
    draw = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("data") / "texts.jsonl"
    with file.open("w") as out:
        for i in range(160):
            label = ("good", "bad")[i % 2]
            words = [str(draw.choice(WORDS[label])) for _ in range(3)] + [str(i)]
            out.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return file


def finetune(
    folder: Path, start: Path, data: Path, options: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """The summary of a run in this folder."""
    files = changes.pop("examples_of", {"train": str(data)})
    settings = {
        **COMMON, "start_from": str(start), "out": str(folder / "run"), "data": files, **changes,
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if name != "steps" or value is not None}
    recipe = folder / "recipe.yaml"
    folder.mkdir(exist_ok=True)
    recipe.write_text(yaml.safe_dump({"finetune": settings}))
    read = load_recipe(recipe)
    vars(read.options).update(options or {})
    return llm.finetune.run(read)


def losses(folder: Path) -> list[tuple[int, float, Any]]:
    rows = read_metrics(str(folder / "run"))
    return [(row["step"], row["loss"], row.get("val_f1_macro")) for row in rows if "loss" in row]


def test_it_learns_and_goes_on_as_if_never_stopped(tmp_path: Path, start: Path, data: Path) -> None:
    whole = finetune(tmp_path / "whole", start, data, steps=40, task={"dropout": 0.0})
    assert whole["finished"] and whole["steps"] == 40 and not whole["stopped_early"]
    assert whole["val_accuracy"] > 0.9
    finetune(tmp_path / "two", start, data, steps=40, task={"dropout": 0.0})
    run = RunFolder(tmp_path / "two/run")
    for newer in committed_folders(run.checkpoints):
        if step_of(newer) > 36:
            shutil.rmtree(newer)
    run.summary.unlink()
    finetune(tmp_path / "two", start, data, steps=40, task={"dropout": 0.0})
    assert losses(tmp_path / "two") == losses(tmp_path / "whole")


def test_each_row_comes_once_an_epoch(tmp_path: Path, start: Path, data: Path) -> None:
    """128 rows of the training part (160 less two tenths), 16 steps of 8: one epoch."""
    with pytest.raises(UserError, match="steps and epochs both say"):
        finetune(tmp_path, start, data, epochs=1)
    summary = finetune(tmp_path, start, data, epochs=1, steps=None)
    assert summary["steps"] == 16
    assert json.loads((tmp_path / "run/settings.json").read_text())["finetune"]["steps"] == 16


def test_it_ends_early_and_the_best_is_loaded(tmp_path: Path, start: Path, data: Path) -> None:
    """Far too high a learning rate after a good start: later validations are worse."""
    summary = finetune(
        tmp_path, start, data, steps=400, early_stop={"patience": 2}, best_by="val_loss",
        optimizer={"lr": 0.5}, schedule={"kind": "constant", "warmup_steps": 0},
    )  # fmt: skip
    assert summary["stopped_early"] and summary["steps"] < 400
    rows = [row for row in read_metrics(str(tmp_path / "run")) if row["step"] > 0 and "val_loss" in row]
    best = min(rows, key=lambda row: row["val_loss"])
    assert summary["best"]["step"] == best["step"] == rows[-3]["step"]
    assert load(str(tmp_path / "run")).step == best["step"]
    again = finetune(
        tmp_path, start, data, steps=400, early_stop={"patience": 2}, best_by="val_loss",
        optimizer={"lr": 0.5}, schedule={"kind": "constant", "warmup_steps": 0},
    )  # fmt: skip
    assert again == summary, "a finished run is left alone"


def test_a_metric_is_better_the_higher_it_is(tmp_path: Path, start: Path, data: Path) -> None:
    summary = finetune(tmp_path, start, data, best_by="f1_macro", steps=20)
    rows = [row for row in read_metrics(str(tmp_path / "run")) if row["step"] > 0 and "val_f1_macro" in row]
    assert summary["best"]["val_f1_macro"] == max(row["val_f1_macro"] for row in rows)


def test_only_what_is_named_changes(tmp_path: Path, start: Path, data: Path) -> None:
    before = {name: value.clone() for name, value in load(str(start)).model.named_parameters()}

    def changed(folder: str, **changes: Any) -> set[str]:
        finetune(tmp_path / folder, start, data, steps=4, **changes)
        after = dict(load(str(tmp_path / folder / "run")).model.named_parameters())
        return {
            name for name, value in before.items() if name in after and not torch.equal(value, after[name])
        }

    assert changed("head", train_only="head") == set()
    assert changed("all") >= {"token_embed.weight", "blocks.0.attention_norm.weight"}
    assert changed("lora", lora={"rank": 2}) == set()


def test_from_scratch_begins_elsewhere(tmp_path: Path, start: Path, data: Path) -> None:
    finetune(tmp_path / "a", start, data, steps=4)
    finetune(tmp_path / "b", start, data, steps=4, from_scratch=True)
    assert losses(tmp_path / "a")[0][1] != losses(tmp_path / "b")[0][1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_by": "val_pearson"}, "best_by 'val_pearson': task classification has no such number"),
        ({"length": 64}, "finetune.length is 64"),
        ({"task": {"kind": "instruction"}, "train_only": "head"}, "no head of its own"),
        ({"start_from": "nowhere"}, "nowhere"),
        ({"examples_of": {"train": "nothing.jsonl"}}, "nothing.jsonl"),
        ({"examples_of": {}}, "finetune.data.train"),
    ],
)
def test_what_is_refused_before_a_worker_starts(
    tmp_path: Path, start: Path, data: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        finetune(tmp_path, start, data, **changes)
    assert not (tmp_path / "run").exists()


def test_another_recipe_is_refused_by_field(tmp_path: Path, start: Path, data: Path) -> None:
    finetune(tmp_path, start, data, steps=4)
    with pytest.raises(UserError, match=r"finetune.lora.rank: 0 there, 4 now \(identity\)"):
        finetune(tmp_path, start, data, steps=4, lora={"rank": 4})
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text() + json.dumps({"text": "fine and new", "label": "good"}) + "\n")
    with pytest.raises(UserError, match="examples.digest"):
        finetune(tmp_path, start, other, steps=4)
