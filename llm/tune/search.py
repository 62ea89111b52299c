"""Which settings trial number n has: functions of the space, the seed and what was found so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from data_jobs.hashes import h64
from llm.sweep_settings import Domain, SweepSettings, Values
from llm.tune.space import combinations, drawn

TRIALS = 10  # where nobody says how many, of anything but a grid


@dataclass(frozen=True)
class Past:
    """What the search knows of an earlier trial."""

    settings: dict[str, Any]
    value: float | None
    """Of the metric, the latest; None: there was none, or it was not finite."""
    step: int
    ended: bool
    whole: bool = True
    """It was not stopped before its last step."""


class Search:
    """The settings of each trial. A trial's settings, once given, are the caller's to keep."""

    def __init__(self, settings: SweepSettings, mode: str) -> None:
        self.settings, self.mode = settings, mode
        self.domains = settings.domains
        self.grid = combinations(self.domains) if settings.search == "grid" else []
        if settings.search == "grid" and (settings.trials or 0) > len(self.grid):
            raise UserError(
                f"sweep.trials is {settings.trials}, the grid has {len(self.grid)} combinations: leave it out"
            )
        self.trials = settings.trials or len(self.grid) or TRIALS
        if settings.search == "optuna":
            _optuna()  # said before anything starts

    def settings_of(self, number: int, past: Sequence[Past] = ()) -> dict[str, Any]:
        """Of trial `number`, from 0. `past`: the trials before it, in their order; only optuna looks."""
        match self.settings.search:
            case "grid":
                return dict(self.grid[number])
            case "optuna":
                return suggested(self.domains, self.settings.seed, number, past, self.mode, self.trials)
        return drawn(self.domains, self.settings.seed, number)

    def ahead(self) -> list[dict[str, Any]]:
        """Settings of all trials, where they do not hang on results."""
        return [] if self.settings.search == "optuna" else [self.settings_of(n) for n in range(self.trials)]


def suggested(
    domains: Mapping[str, Domain], seed: int, number: int, past: Sequence[Past], mode: str, trials: int
) -> dict[str, Any]:
    """Optuna's tree-structured Parzen estimator over the trials so far.

    It is made anew each time with a seed of the number: nothing of it has to be kept over restarts, and equal
    results give equal settings. The first tenth, at least 3 and at most 10, are draws.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: _distribution(optuna, domain) for name, domain in domains.items()}
    sampler = optuna.samplers.TPESampler(
        seed=h64(seed, "optuna", number) % 2**32,
        n_startup_trials=min(10, max(3, trials // 10)),
        constant_liar=True,  # those that are under way count as bad: others at the same time look elsewhere
    )
    direction = "minimize" if mode == "min" else "maximize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    states = optuna.trial.TrialState
    for one in past:
        given: dict[str, Any] = {"params": one.settings, "distributions": distributions}
        if one.ended and one.value is None:
            state = states.FAIL
        elif not one.ended:
            state = states.RUNNING
        elif one.whole:
            state, given["value"] = states.COMPLETE, one.value
        else:
            state, given["intermediate_values"] = states.PRUNED, {one.step: one.value}
        study.add_trial(optuna.trial.create_trial(state=state, **given))
    params: dict[str, Any] = study.ask(distributions).params
    return {name: params[name] for name in domains}


def _distribution(optuna: Any, domain: Domain) -> Any:
    if isinstance(domain, Values):
        return optuna.distributions.CategoricalDistribution(domain.values)
    if domain.whole:
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("sweep.search optuna: it is not installed: pip install 'optuna>=4'") from None
    return optuna
