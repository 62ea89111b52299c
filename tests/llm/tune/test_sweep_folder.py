"""Whose a sweep folder is: the same sweep goes on, another recipe is refused by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import places
from cluster.errors import UserError
from llm.settings import PretrainSettings, SweepSettings
from llm.tune.folder import SweepFolder, open_sweep
from llm.tune.space import kept_fields

SPACE = {"pretrain.optimizer.lr": [1.0, 2.0]}


def open_with(folder: Path, trials: int = 4, fresh: bool = False, **changes: Any) -> dict[str, Any]:
    sweep = SweepSettings.model_validate({"of": "pretrain", "space": SPACE} | changes.pop("sweep", {}))
    kept = dict(kept_fields(sweep, "sweep")) | dict(kept_fields(PretrainSettings(**changes), "pretrain"))
    return open_sweep(SweepFolder(folder), "tiny", {"section": "pretrain", "recipe": kept}, trials, fresh)


def begin(folder: Path, **changes: Any) -> dict[str, Any]:
    record = open_with(folder, **changes)
    places.write_json(SweepFolder(folder).record, record)
    return record


def test_the_same_sweep_goes_on_and_may_grow(tmp_path: Path) -> None:
    first = begin(tmp_path)
    assert first["sweep_id"].startswith("tiny-")
    again = open_with(tmp_path, trials=9, zero_stage=3, sweep={"max_concurrent": 2})
    assert again["sweep_id"] == first["sweep_id"] and again["trials"] == 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sweep": {"search": "grid"}}, ["sweep.search", "'random' there, 'grid' now"]),
        ({"sweep": {"space": {"pretrain.batch": [8]}}}, ["sweep.space", "pretrain.batch"]),
        ({"optimizer": {"beta1": 0.5}}, ["pretrain.optimizer.beta1", "0.9 there, 0.5 now"]),
        ({"seed": 3, "steps": 7}, ["pretrain.seed", "0 there, 3 now", "pretrain.steps"]),
        ({"trials": 3}, ["sweep.trials", "4 there, 3 now"]),
    ],
)
def test_another_recipe_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    begin(tmp_path)
    with pytest.raises(UserError) as caught:
        open_with(tmp_path, **changes)
    for word in [*words, "--fresh", "another recipe"]:
        assert word in str(caught.value)
    assert open_with(tmp_path, fresh=True, **changes)["sweep_id"] != ""


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lease").mkdir()
    (tmp_path / "examples").mkdir()
    open_with(tmp_path)  # of a start that did not come far
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no sweep of ours"):
        open_with(tmp_path)


def test_a_sweep_of_another_version_is_refused(tmp_path: Path) -> None:
    places.write_json(SweepFolder(tmp_path).record, {"format": "manta-sweep-9"})
    with pytest.raises(UserError, match="manta-sweep-9"):
        open_with(tmp_path)
    with pytest.raises(UserError, match="no sweep folder"):
        SweepFolder(tmp_path / "none").read_record()
