"""The table of filters in the docs has every key of a recipe, with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic_core import PydanticUndefined

from cluster.fields import Settings
from data_jobs.cleaning.clean_settings import CleanSettings
from data_jobs.filters.filter_settings import FilterSettings
from data_jobs.settings import CorpusSettings

DOCS = (Path(__file__).parents[3] / "docs" / "cleaning_and_filters.md").read_text("utf-8")


def defaults() -> dict[str, Any]:
    found = {}
    for family, field in FilterSettings.model_fields.items():
        kind = next(
            arg for arg in get_args(field.annotation) if isinstance(arg, type) and issubclass(arg, Settings)
        )
        found |= {f"{family}.{name}": inner.default for name, inner in kind.model_fields.items()}
    return found


def value_of(cell: str) -> Any:
    return {"none": None, "required": PydanticUndefined}.get(
        cell, yaml.safe_load(f"{{{cell}}}" if ":" in cell else cell)
    )


def test_every_filter_stands_there_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \| ([^|]+) \|", DOCS, re.MULTILINE)
    assert {name: value_of(cell) for name, cell in rows} == defaults()
    families = list(dict.fromkeys(name.split(".")[0] for name, _ in rows))
    assert families == list(FilterSettings.model_fields)  # in the order in which they judge


def test_every_rule_of_cleaning_stands_there() -> None:
    for name in CleanSettings.model_fields:
        assert f"`{name}" in DOCS, name


def test_its_recipe_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    settings = CorpusSettings.model_validate(yaml.safe_load(text)["corpus"])
    assert settings.filters.gopher_quality is not None and settings.clean.encoding == "repair"
