"""Rotary positions: our settings and `rope_parameters` of a config.json.

transformers 5 has one object, `rope_parameters` {rope_type, rope_theta, ...}; before it `rope_theta` and
`rope_scaling` {type or rope_type, ...} stood beside each other.
"""

from __future__ import annotations

import math
from typing import Any

from cluster.errors import UserError
from llm.exchange.fields import Config
from llm.settings import RotarySettings

# Their name of a field of ours, by kind of scaling.
_FIELDS = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor", "original_max_position_embeddings": "original_context",
        "low_freq_factor": "low_factor", "high_freq_factor": "high_factor",
    },
    "yarn": {
        "factor": "factor", "original_max_position_embeddings": "original_context",
        "beta_fast": "fast_turns", "beta_slow": "slow_turns",
    },
}  # fmt: skip
# What the other library takes where a field is absent. None: it must be there.
_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}


def rotary_from(config: Config, context: int) -> dict[str, Any]:
    """Fields of RotarySettings. UserError where the positions are of another kind."""
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if any(isinstance(value, dict) for value in given.values()):
        raise UserError("config.json: rope_parameters that differ between layers cannot be imported")
    kind = given.pop("rope_type", None) or given.pop("type", "default")
    given.pop("type", None)
    if kind not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise UserError(f"config.json: rope_type '{kind}' cannot be imported; known are {known}")
    for name, value in {"partial_rotary_factor": 1.0, "mscale": None, "mscale_all_dim": None}.items():
        said = given.get(name, config.get(name))
        if said not in (None, value):
            raise UserError(f"config.json: rope_parameters.{name} is {said!r}, and cannot be imported")
    found: dict[str, Any] = {"scaling": "none" if kind == "default" else kind}
    found["base"] = given.get("rope_theta") or config.get("rope_theta") or 10_000.0
    defaults = {**_DEFAULTS, "original_max_position_embeddings": context}
    for theirs, ours in _FIELDS[kind].items():
        value = given.get(theirs)
        found[ours] = defaults.get(theirs) if value is None else value
        if found[ours] is None:
            raise UserError(f"config.json: rope_parameters.{theirs} is missing, and {kind} needs it")
    if kind == "yarn":
        _check_yarn(given, found["factor"])
    return found


def _check_yarn(given: Config, factor: float) -> None:
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    if abs((given.get("attention_factor") or usual) - usual) > 1e-6:
        raise UserError(
            f"config.json: rope_parameters.attention_factor is {given['attention_factor']}, only the usual "
            f"{usual:.6f} of factor {factor} can be imported"
        )
    if given.get("truncate") is False:
        raise UserError("config.json: rope_parameters.truncate is false, only true can be imported")


def rotary_to(rotary: RotarySettings) -> dict[str, Any]:
    """`rope_parameters`."""
    kind = "default" if rotary.scaling == "none" else rotary.scaling
    fields = {theirs: getattr(rotary, ours) for theirs, ours in _FIELDS[kind].items()}
    return {"rope_type": kind, "rope_theta": rotary.base, **fields}
