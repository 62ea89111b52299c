"""Settings: unknown keys, kinds of fields, and what is compared on resume."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.fields import Settings, free, identity, kinds_of, leaves, on_resume, plan, values_of_kind


class Inner(Settings):
    """A group of settings."""

    depth: int = identity(2, "number of layers", ge=1)
    name: str | None = free(None, "a name")


class Item(Settings):
    """One of a list."""

    weight: float = plan(1.0, "its weight")


class Outer(Settings):
    """A section."""

    rate: float = plan(0.1, "learning rate")
    inner: Inner = free(Inner(), "the group")
    items: tuple[Item, ...] = plan((Item(),), "the items")
    wait: bool = free(False, "whether to wait")
    forgotten: int = 3


def test_leaves_are_the_plain_fields_depth_first() -> None:
    assert [name for name, _ in leaves(Outer)] == [
        "rate",
        "inner.depth",
        "inner.name",
        "items",
        "wait",
        "forgotten",
    ]


def test_kind_on_resume() -> None:
    kinds = {name: on_resume(field) for name, field in leaves(Outer)}
    assert kinds == {
        "rate": "plan",
        "inner.depth": "identity",
        "inner.name": "free",
        "items": "plan",
        "wait": "free",
        "forgotten": None,
    }


def test_values_compare_with_what_was_saved() -> None:
    settings = Outer(items=(Item(weight=2), Item()))
    values = values_of_kind(settings, "plan", "identity")
    assert values == {"rate": 0.1, "inner.depth": 2, "items": [{"weight": 2.0}, {"weight": 1.0}]}
    saved = Outer.model_validate_json(settings.model_dump_json())
    assert values_of_kind(saved, "plan", "identity") == values


@pytest.mark.parametrize("values", [{"rat": 1}, {"inner": {"dept": 1}}, {"items": [{"weights": 1}]}])
def test_unknown_keys_are_errors(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Outer.model_validate(values)


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().rate = 3


@pytest.mark.parametrize("values", [{"rate": True}, {"inner": {"depth": True}}, {"forgotten": False}])
def test_true_and_false_are_no_numbers(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="no number"):
        Outer.model_validate(values)


def test_true_is_true() -> None:
    assert Outer.model_validate({"wait": True}).wait is True


def test_kinds_of() -> None:
    fields = dict(leaves(Outer))
    assert kinds_of(fields["rate"]) == {float}
    assert kinds_of(fields["inner.name"]) == {str, type(None)}
