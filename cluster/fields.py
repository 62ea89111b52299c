"""Typed settings: the base class, and what each field means for a run that is resumed.

Every field is one of three kinds (a test fails for a field without one):

- identity: must be equal on resume (model, tokenizer, optimizer kind);
- plan:     changes only when accepted by name, and is then recorded (steps, schedule); those that
            the order of the samples hangs on (batch) are refused all the same;
- free:     may change at any restart (workers, ZeRO stage, micro-batch, paths, logging).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

OnResume = Literal["identity", "plan", "free"]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error.

    Where a field's default is settings with values of their own, a recipe that gives some of them leaves the
    others as that default has them; another `kind` of thing begins at its own defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        merged = dict(data)
        for name, field in cls.model_fields.items():
            given, default = data.get(name), field.default
            if not isinstance(given, dict) or not isinstance(default, Settings):
                continue
            own = default.model_dump(exclude_unset=True)
            if given.get("kind", getattr(default, "kind", None)) == getattr(default, "kind", None):
                merged[name] = own | given
        return merged

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes`, `on` and `off` as true and false, and pydantic would take those as 1 and 0."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = kinds_of(cls.model_fields[info.field_name])
            if bool not in kinds and kinds & {int, float}:
                raise ValueError("true and false (in YAML also yes, no, on, off) are no number")
        return value


def identity(default: Any = ..., help: str = "", **constraints: Any) -> Any:
    """A field that must be equal when a run is resumed."""
    return Field(default, description=help, json_schema_extra={"on_resume": "identity"}, **constraints)


def plan(default: Any = ..., help: str = "", **constraints: Any) -> Any:
    """A field that changes on resume only when it is accepted by name."""
    return Field(default, description=help, json_schema_extra={"on_resume": "plan"}, **constraints)


def free(default: Any = ..., help: str = "", **constraints: Any) -> Any:
    """A field that may change at any restart."""
    return Field(default, description=help, json_schema_extra={"on_resume": "free"}, **constraints)


def nested(field: FieldInfo) -> type[Settings] | None:
    """The settings class that a field holds, or None for a plain value or a list."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def kinds_of(field: FieldInfo) -> set[Any]:
    """The plain alternatives of a field's type: `{str, NoneType}` for `str | None`."""
    annotation = field.annotation
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def defaults_of(kind: type[Settings], default: Settings | None = None) -> Iterator[tuple[str, Any]]:
    """Each plain field of a settings class, as `leaves` names it, with its default where it stands.

    `default`: an instance that is itself a default. A field that must be given is left out.
    """
    for name, field in kind.model_fields.items():
        value = field.default if default is None else getattr(default, name)
        if (inner := nested(field)) is not None:
            own = value if isinstance(value, Settings) else None
            yield from ((f"{name}.{dotted}", leaf) for dotted, leaf in defaults_of(inner, own))
        elif default is not None or not field.is_required():
            yield name, value


def leaves(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each plain field of a settings class with its dotted name, depth first."""
    for name, field in kind.model_fields.items():
        inner = nested(field)
        if inner is not None:
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def on_resume(field: FieldInfo) -> OnResume | None:
    """The declared kind of a field; None where it was forgotten."""
    extra = field.json_schema_extra
    kind = extra.get("on_resume") if isinstance(extra, dict) else None
    return kind if kind in ("identity", "plan", "free") else None  # type: ignore[return-value]


def values_of_kind(settings: Settings, *kinds: OnResume) -> dict[str, Any]:
    """Dotted name to value for the plain fields of `settings` declared as one of `kinds`."""
    dumped = settings.model_dump(mode="json")  # as a saved file holds them, so that the two compare
    values: dict[str, Any] = {}
    for dotted, field in leaves(type(settings)):
        if on_resume(field) in kinds:
            value: Any = dumped
            for part in dotted.split("."):
                value = value[part]
            values[dotted] = value
    return values
