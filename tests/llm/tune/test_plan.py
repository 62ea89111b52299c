"""What a sweep's recipe is refused for before anything starts, and what its trials have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import UserError
from cluster.recipe import Recipe, load_recipe
from llm.settings import FinetuneSettings, PretrainSettings, SweepSettings
from llm.tune.folder import SweepFolder
from llm.tune.plan import Plan, check_sweep
from llm.tune.trial import Told, Work

LR = "pretrain.optimizer.lr"
PRETRAIN: dict[str, Any] = {"steps": 40, "validation": {"every": 10}, "checkpoint": {"every": 10}}


def plan(tmp_path: Path, sweep: dict[str, Any], **sections: Any) -> tuple[Plan, Recipe]:
    file = tmp_path / "tiny.yaml"
    given = {"model": {"layers": 1}, "pretrain": PRETRAIN, "sweep": {"of": "pretrain", **sweep}}
    file.write_text(yaml.safe_dump({name: value for name, value in (given | sections).items() if value}))
    recipe = load_recipe(file)
    return check_sweep(recipe, recipe.need(SweepSettings), SweepFolder(tmp_path / "sweep")), recipe


@pytest.mark.parametrize(
    ("sweep", "sections", "words"),
    [
        ({"space": {LR: [1.0]}, "metric": "val_los"}, {}, ["sweep.metric", "did you mean 'val_loss'"]),
        ({"space": {LR: [1.0]}, "metric": "accuracy"}, {}, ["pretraining has no such number"]),
        ({"space": {LR: [1.0]}, "metric": "bits_per_byte"}, {"model": {"kind": "bert"}}, ["no such number"]),
        ({"space": {"pretrain.lr": [1.0]}}, {}, ["no setting", "pretrain.optimizer.lr"]),
        ({"space": {LR: [1.0]}}, {"pretrain": PRETRAIN | {"launch": "here"}}, ["launch is here"]),
        (
            {"space": {LR: [1.0]}},
            {"pretrain": PRETRAIN | {"validation": {"every": 10, "where": "workers"}}},
            ["validation.where"],
        ),
        (
            {"space": {LR: [1.0]}, "scheduler": "asha"},
            {"pretrain": {"validation": {"every": 0}}},
            ["validation.every is 0"],
        ),
        ({"space": {LR: [1.0]}, "scheduler": "asha", "grace": 40}, {}, ["sweep.grace (40)"]),
        ({"space": {LR: [1.0]}}, {"pretrain": None}, ["section 'pretrain' is missing"]),
        ({"space": {LR: [1.0]}, "of": "finetune"}, {}, ["section 'finetune' is missing"]),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, sweep: dict[str, Any], sections: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        plan(tmp_path, sweep, **sections)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_each_trial_of_a_grid_is_checked(tmp_path: Path) -> None:
    """Neither the values alone nor the two corners are wrong: one combination is."""
    space = {"pretrain.steps": [40, 20], "pretrain.schedule.warmup_steps": [25, 5]}
    with pytest.raises(UserError, match=r"trial 1 would have.*warmup_steps 25, pretrain.steps 20"):
        plan(tmp_path, {"space": space, "search": "grid"})


def test_trials_have_places_that_mean_the_same_everywhere(tmp_path: Path) -> None:
    made, recipe = plan(tmp_path, {"space": {LR: [1.0, 2.0]}, "search": "grid"})
    assert (made.metric, made.mode, made.search.trials) == ("val_loss", "min", 2)
    own = made.sections["pretrain"]
    assert Path(own["corpus"]).is_absolute() and own["checkpoint"]["keep_best"] == 1
    work = Work(dict, "tiny", str(recipe.path), "pretrain", made.sections, str(tmp_path / "sweep"), "tiny-1")
    trial = work.with_cpus(2).recipe("t00001", {LR: 2.0})
    run = trial.need(PretrainSettings)
    assert run.optimizer.lr == 2.0 and run.cpus_per_worker == 2 and run.steps == 40
    assert (run.wandb.group, run.wandb.job_type, run.wandb.run_id) == ("tiny-1", "trial", "tiny-1-t00001")
    assert trial.out("pretrain") == str(tmp_path / "sweep/trials/t00001") and trial.options.accept == [LR]
    assert recipe.need(PretrainSettings).optimizer.lr == 1e-3, "the recipe's own stays"


def test_a_task_has_its_metric_and_shares_its_examples(tmp_path: Path) -> None:
    finetune = {
        "data": {"train": "a.jsonl"}, "task": {"labels": ["no", "yes"]}, "steps": 40,
        "validation": {"every": 10}, "checkpoint": {"every": 10},
    }  # fmt: skip
    sweep = {"of": "finetune", "space": {"finetune.optimizer.lr": [1.0]}, "metric": "f1_macro"}
    made, recipe = plan(tmp_path, sweep, finetune=finetune, pretrain=None)
    own = made.sections["finetune"]
    assert (made.metric, made.mode, own["best_by"]) == ("val_f1_macro", "max", "val_f1_macro")
    assert Path(own["data"]["train"]).is_absolute() and own["start_from"].endswith("runs/tiny/pretrain")
    assert own["examples"] == str(tmp_path / "sweep/examples")
    with pytest.raises(UserError, match="classification has no such number"):
        plan(tmp_path, sweep | {"metric": "pearson"}, finetune=finetune, pretrain=None)
    assert recipe.need(FinetuneSettings).best_by == "val_loss"


def test_a_population_trains_side_by_side(tmp_path: Path) -> None:
    made, _ = plan(tmp_path, {"space": {LR: [1.0, 2.0]}, "search": "pbt", "trials": 4})
    assert made.check_concurrent(6) == 4
    with pytest.raises(UserError, match="lower sweep.trials to 2"):
        made.check_concurrent(2)
    assert (
        made.perturb_every(PretrainSettings.model_validate(PRETRAIN))
        == 10
        == made.grace(PretrainSettings.model_validate(PRETRAIN))
    )


def test_what_needs_data_of_its_own_is_known_ahead(tmp_path: Path) -> None:
    """Rows are made once for each, before two trials could make them at the same time."""
    space = {LR: [1.0, 2.0], "pretrain.length": [32, 64], "pretrain.seed": [1]}
    grid, _ = plan(tmp_path, {"space": space, "search": "grid"})
    assert [row["pretrain.length"] for row in grid.distinct()] == [32, 64]
    assert len(plan(tmp_path, {"space": {LR: [1.0, 2.0]}, "search": "grid"})[0].distinct()) == 1
    pytest.importorskip("optuna")
    drawn, _ = plan(tmp_path, {"space": space | {LR: {"uniform": [1.0, 2.0]}}, "search": "optuna"})
    assert [row["pretrain.length"] for row in drawn.distinct()] == [32, 64]
    assert (
        len(plan(tmp_path, {"space": {LR: {"uniform": [1.0, 2.0]}}, "search": "optuna"})[0].distinct()) == 1
    )


def test_what_a_trial_is_told_travels_as_text() -> None:
    told = Told("t00003", {LR: 0.1 + 0.2, "x": ["a"]}, 40, 2)
    assert Told.from_json(told.to_json()) == told
