"""What a sweep decides by, as functions of values: metric, places in HyperBand, who goes on from whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llm.run_settings import RunSettings
from llm.settings import FinetuneSettings, ModelSettings
from llm.sweep_settings import Domain, SweepSettings
from llm.train.best import lower_is_better
from llm.tune.space import share_of

Mode = Literal["min", "max"]
PRETRAIN_METRICS = {
    "gpt": ("val_loss", "bits_per_byte"),
    "bert": ("val_loss", "val_mlm_loss", "val_masked_accuracy", "val_nsp_loss", "val_nsp_accuracy"),
}
RESAMPLED = 0.25  # share of the settings that pbt draws anew; the others move by a factor
FACTORS = (0.8, 1.25)  # apart by the same ratio, so that there and back is where it was (Ray: 0.8 and 1.2)


def metric_of(sweep: SweepSettings, run: RunSettings) -> str:
    """The name, in metrics.jsonl, of the number that trials are compared by."""
    own = run.best_by if isinstance(run, FinetuneSettings) else "val_loss"
    name = sweep.metric or own
    return name if name.startswith("val_") or name == "bits_per_byte" else f"val_{name}"


def mode_of(sweep: SweepSettings, metric: str) -> Mode:
    """Which value of the metric is best."""
    return sweep.mode or ("min" if lower_is_better(metric) else "max")


def known_metrics(run: RunSettings, model: ModelSettings | None) -> tuple[str, ...]:
    """What a validation gives; empty where that is not known before the data are read."""
    if not isinstance(run, FinetuneSettings):
        kinds = [model.kind] if model is not None else list(PRETRAIN_METRICS)
        return tuple(dict.fromkeys(name for kind in kinds for name in PRETRAIN_METRICS[kind]))
    from llm.tasks.scoring import metric_names

    return tuple(f"val_{name}" for name in metric_names(run.task.kind, run.task.labels or ("0", "1", "2")))


def is_better(one: float | None, other: float | None, mode: Mode) -> bool:
    """Whether a value beats another; what is not finite or not there beats nothing."""
    if one is None or not math.isfinite(one):
        return False
    if other is None or not math.isfinite(other):
        return True
    return one < other if mode == "min" else one > other


def worst(mode: Mode) -> float:
    """What a number that is not finite counts as."""
    return math.inf if mode == "min" else -math.inf


def bracket_of(number: int, brackets: int, reduction: float) -> int:
    """HyperBand's bracket of trial `number`: bracket s stops nobody before grace x reduction^s.

    Of each round of trials, bracket s gets as many as HyperBand starts in it (Li et al. 2018, algorithm 1):
    those that stop early are cheap, so there are more of them.
    """
    sizes = [math.ceil(brackets / (s + 1) * reduction**s) for s in range(brackets - 1, -1, -1)]
    at = number % sum(sizes)
    for bracket, size in enumerate(sizes):
        if at < size:
            return bracket
        at -= size
    raise AssertionError("a number below their sum lies in one of the sizes")


def donor_of(
    trial: str, values: Mapping[str, float], mode: Mode, quantile: float, share: float
) -> str | None:
    """Of whom a trial takes over weights and settings; None: it is not among the worst, or all alone.

    `values`: of each trial that is under way, at this trial's step or the last before. `share` in
    [0, 1) picks one of the best.
    """
    order = sorted(values, key=lambda name: (values[name] if mode == "min" else -values[name], name))
    count = min(math.ceil(len(order) * quantile), len(order) // 2)
    if count == 0 or trial not in order[-count:]:
        return None
    return order[int(share * count)]


def explored(
    domains: Mapping[str, Domain], settings: Mapping[str, Any], seed: int, position: Sequence[int | str]
) -> dict[str, Any]:
    """Settings near the donor's: each is drawn anew, or moves by a factor or to its neighbour in the list."""
    new: dict[str, Any] = {}
    for name, domain in domains.items():
        if share_of(seed, "resample", *position, name) < RESAMPLED:
            new[name] = domain.at(share_of(seed, "anew", *position, name))
        else:
            factor = FACTORS[int(share_of(seed, "factor", *position, name) * len(FACTORS))]
            new[name] = domain.near(settings[name], factor)
    return new
