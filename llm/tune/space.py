"""The space of a sweep against the settings that it names, and a trial's settings in a recipe."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cluster.errors import UserError
from cluster.fields import Settings, leaves, on_resume
from data_jobs.hashes import h64
from llm.settings import SECTIONS
from llm.sweep_settings import Domain, SweepSettings, Values
from llm.train.run_folder import ORDER_FIELDS

Sections = Mapping[str, Mapping[str, Any]]
"""A recipe as plain values: section to what is given in it."""

# Each trial has its own from the sweep.
OWN = (
    "out", "launch", "workers", "cpus_per_worker", "device", "examples", "best_by", "corpus", "start_from",
    "max_failures", "hang_seconds",
)  # fmt: skip


def sweepable(of: str) -> dict[str, FieldInfo]:
    """Dotted names of the settings that a sweep of this section may be over."""
    found: dict[str, FieldInfo] = {}
    for section in ("model", of):
        for name, field in leaves(SECTIONS[section]):
            if section == "model" or not (name in OWN or name.startswith(("wandb.", "data."))):
                found[f"{section}.{name}"] = field
    return found


def with_settings(sections: Sections, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe with these settings, by their dotted names, in place of its own."""
    changed = copy.deepcopy({name: dict(values) for name, values in sections.items()})
    for dotted, value in settings.items():
        *path, last = dotted.split(".")
        inner: dict[str, Any] = changed
        for part in path:
            found = inner.setdefault(part, {})
            if not isinstance(found, dict):
                raise ValueError(f"{dotted}: {part} is no group of settings here")
            inner = found
        inner[last] = value
    return changed


def check_space(sections: Sections, sweep: SweepSettings) -> None:
    """UserError with every name that is no setting, and every value that a trial could not be run with."""
    if not sweep.space:
        raise UserError("sweep.space is empty: name at least one setting, such as pretrain.optimizer.lr")
    known = sweepable(sweep.of)
    problems: list[str] = []
    for name, domain in sweep.domains.items():
        if name not in known:
            problems.append(_unknown(name, known, sweep.of))
        else:
            if sweep.search == "pbt" and (why := _fixed(name, known[name])):
                problems.append(why)
            for value in domain.extremes():
                if why := problem_with(sections, sweep.of, {name: value}):
                    problems.append(f"{name} {value!r}: {why}")
    if not problems:  # each alone is possible: now the corners of the space
        for which in (0, -1):
            corner = {name: domain.extremes()[which] for name, domain in sweep.domains.items()}
            if why := problem_with(sections, sweep.of, corner):
                words = ", ".join(f"{name} {value!r}" for name, value in corner.items())
                problems.append(f"{words}: {why}")
                break
    if problems:
        raise UserError("sweep.space: " + "\n       sweep.space: ".join(problems))


def problem_with(sections: Sections, of: str, settings: Mapping[str, Any]) -> str | None:
    """Why a recipe with these settings is refused; None: it is not."""
    try:
        changed = with_settings(sections, settings)
        for section in ("model", of):
            if section in changed:
                SECTIONS[section].model_validate(changed[section])
    except ValidationError as error:
        words = []
        for item in error.errors():
            place = ".".join(map(str, item["loc"]))
            message = str(item["msg"]).removeprefix("Value error, ")
            words.append(f"{place}: {message}" if place else message)
        return "; ".join(words)
    except ValueError as error:
        return str(error)
    return None


def combinations(domains: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every combination of lists, the last name's values changing fastest."""
    lists = [domain.values for domain in domains.values() if isinstance(domain, Values)]
    return [dict(zip(domains, values, strict=True)) for values in itertools.product(*lists)]


def drawn(domains: Mapping[str, Domain], seed: int, *position: int | str) -> dict[str, Any]:
    """A draw of every setting: a function of (seed, position, name)."""
    return {name: domain.at(share_of(seed, *position, name)) for name, domain in domains.items()}


def share_of(seed: int, *position: int | str) -> float:
    """A number in [0, 1), a function of (seed, position)."""
    return (h64(seed, "sweep", *position) >> 11) / 2**53


def kept_fields(settings: Settings, section: str) -> Iterator[tuple[str, Any]]:
    """Dotted name and value of what must be equal in a sweep that goes on."""
    dumped = settings.model_dump(mode="json")
    for name, field in leaves(type(settings)):
        if on_resume(field) in ("identity", "plan"):
            value: Any = dumped
            for part in name.split("."):
                value = value[part]
            yield f"{section}.{name}", value


def _unknown(name: str, known: Mapping[str, Any], of: str) -> str:
    section, _, field = name.partition(".")
    if section == of and (field in OWN or field.startswith(("wandb.", "data."))):
        return f"{name}: the same for all trials, or each trial's own"
    alike = [full for full in known if full.split(".")[-1] == name.split(".")[-1]]  # only its place is wrong
    near = difflib.get_close_matches(name, alike, 1, 0.0) or difflib.get_close_matches(name, known, 1, 0.5)
    near = near or difflib.get_close_matches(f"{of}.{name}", known, 1, 0.5)
    return f"{name}: no setting of sections model and {of}" + (f"; did you mean '{near[0]}'?" if near else "")


def _fixed(name: str, field: FieldInfo) -> str | None:
    """Why population based training, which changes settings of a run that has begun, cannot change this."""
    if on_resume(field) == "identity" or name in ORDER_FIELDS:
        return f"{name}: fixed once a run has begun, and pbt changes settings of runs that have begun"
    return None
