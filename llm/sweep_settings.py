"""The `sweep` section of a recipe: many trainings that differ in a few settings, and how to compare them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator, model_validator

from cluster.fields import Settings, free, identity

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
FORMS = ("grid", "choice", "uniform", "log_uniform", "int", "log_int")


@dataclass(frozen=True)
class Values:
    """A list of values. `kind`: grid, choice, or list, which is either."""

    kind: str
    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at this share, in [0, 1), of the way through the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def extremes(self) -> tuple[Any, ...]:
        return self.values

    def near(self, value: Any, factor: float) -> Any:
        """The neighbour of a value: the one after it for a factor above 1, else the one before."""
        step = 1 if factor > 1 else -1
        where = self.values.index(value) + step if value in self.values else 0
        return self.values[min(max(where, 0), len(self.values) - 1)]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both ends included; `log`: alike in each factor; `whole`: integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float | int:
        """The number at this share, in [0, 1), of the range."""
        spare = 0.5 if self.whole else 0.0  # so that the ends come as often as what is between them
        low, high = self.low - spare, self.high + spare
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return self.within(value)

    def extremes(self) -> tuple[Any, ...]:
        return (self.within(self.low), self.within(self.high))

    def near(self, value: Any, factor: float) -> float | int:
        """A number times a factor, kept inside; a whole one moves by one at least."""
        moved = value * factor
        if self.whole and round(moved) == value:
            moved = value + (1 if factor > 1 else -1)
        return self.within(moved)

    def within(self, value: float) -> float | int:
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.whole else float(inside)


Domain = Values | Range


def domain_of(name: str, given: Any) -> Domain:
    """What stands beside a setting's name in `space`. ValueError says what is wrong with it."""
    if isinstance(given, list):
        return _values(name, "list", given)
    if not isinstance(given, dict) or len(given) != 1:
        raise ValueError(
            f"{name}: a list of values, or one of {{{', '.join(FORMS)}}} such as {{uniform: [0.1, 0.3]}}"
        )
    [(form, inside)] = given.items()
    if form in ("grid", "choice"):
        return _values(name, form, inside)
    if form not in FORMS:
        raise ValueError(f"{name}: unknown form {form!r}; there are {', '.join(FORMS)}")
    return _range(name, form, inside)


def _values(name: str, kind: str, given: Any) -> Values:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{name}: {kind} takes a list of at least one value")
    if any(given.count(value) > 1 for value in given if not isinstance(value, bool)):
        raise ValueError(f"{name}: a value stands twice in {given}")
    return Values(kind, tuple(map(_read, given)))


def _range(name: str, form: str, given: Any) -> Range:
    if not isinstance(given, list) or len(given) != 2 or not all(_is_number(_read(end)) for end in given):
        raise ValueError(f"{name}: {form} takes two numbers, [lowest, highest]")
    low, high = map(_read, given)
    whole, log = form.endswith("int"), form.startswith("log")
    if whole and (low != int(low) or high != int(high)):
        raise ValueError(f"{name}: {form} takes two whole numbers, not {given}")
    if low >= high:
        raise ValueError(f"{name}: {form} from {low} to {high}: the first must be the lower one")
    if log and low <= 0:
        raise ValueError(f"{name}: {form} is for numbers above 0, it begins with {low}")
    return Range(low, high, log, whole)


def _read(value: Any) -> Any:
    """YAML takes 1e-5 for text, since it has no dot."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class SweepSettings(Settings):
    """Many trainings that differ in a few settings."""

    of: Literal["finetune", "pretrain"] = identity("finetune", "the command that each trial is a run of")
    space: dict[str, Any] = identity(
        {}, "settings that differ, by their dotted names; each a list of values, {grid: [...]}, {choice: "
        "[...]}, {uniform: [low, high]}, {log_uniform: ...}, {int: ...} or {log_int: ...}"
    )  # fmt: skip
    search: Literal["grid", "random", "optuna", "pbt"] = identity(
        "random", "grid: every combination of the lists; random; optuna: a model of what was found so far "
        "(TPE, Bergstra et al. 2011); pbt: the worst go on from the best, with other settings (Jaderberg et "
        "al. 2017)"
    )  # fmt: skip
    scheduler: Literal["none", "asha", "hyperband", "median"] = identity(
        "none", "which trials end early: none; asha: all but the best share of those that came as far (Li et "
        "al. 2018); hyperband: the same with several lengths of grace; median: those below the median of the "
        "others (Golovin et al. 2017, section 3.2)"
    )  # fmt: skip
    metric: str | None = identity(
        None, "number of a validation that trials are compared by (default: finetune.best_by; of a "
        "pretraining val_loss)"
    )  # fmt: skip
    mode: Literal["min", "max"] | None = identity(
        None, "which value of it is best (default: min for losses and errors, max for all others)"
    )
    trials: int | None = free(
        None, "how many (default: all of a grid, else 10); more may be asked for later", ge=1
    )
    grace: int | None = identity(
        None, "steps that no trial is ended before (default: those to the first validation)", ge=1
    )
    reduction: float = identity(
        3.0, "asha, hyperband: one in so many goes on, at grace, grace x this, and so on", gt=1
    )
    brackets: int = identity(
        3, "hyperband: how many lengths of grace: each is `reduction` times longer", ge=1
    )
    perturb_every: int | None = identity(
        None, "pbt: steps between two looks at a trial (default: validation.every)", ge=1
    )
    quantile: float = identity(
        0.25, "pbt: share of the trials that are replaced, and of those they may go on from", gt=0, le=0.5
    )
    max_concurrent: int | None = free(
        None, "most trials at the same time (default: as many as the cluster has room for)", ge=1
    )
    seed: int = identity(0, "of what is drawn; each trial trains with its own section's seed", ge=0)
    out: str | None = free(None, "sweep folder, or s3://bucket/name (default: runs/<recipe>/sweep)")

    @field_validator("space")
    @classmethod
    def _has_forms(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            domain_of(name, given)
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> SweepSettings:
        if self.search == "pbt" and self.scheduler != "none":
            raise ValueError("search pbt ends no trial early: leave scheduler at none")
        if self.search != "pbt" and self.perturb_every is not None:
            raise ValueError(f"perturb_every is for search pbt, search is {self.search}")
        wrong = {"grid": "choice"}.get(self.search, "grid")
        for name, domain in self.domains.items():
            kind = domain.kind if isinstance(domain, Values) else "range"
            if kind == wrong or (self.search == "grid" and kind == "range"):
                form = next(iter(self.space[name])) if isinstance(self.space[name], dict) else kind
                raise ValueError(
                    f"space: {name}: {form} is not for search {self.search}: "
                    + ("give a list of values" if self.search == "grid" else "use choice, or a list")
                )
        return self

    @property
    def domains(self) -> Mapping[str, Domain]:
        """The space, read: dotted name to what its values are."""
        return {name: domain_of(name, given) for name, given in self.space.items()}
