"""Decides of each result in turn: the trial goes on, ends, or goes on from another. Keeps the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.errors import UserError
from llm.sweep_settings import SweepSettings
from llm.tune.ledger import Ledger, Trial, trial_name
from llm.tune.rules import Mode, donor_of, explored, is_better, worst
from llm.tune.search import Past, Search
from llm.tune.space import share_of


class StopRule(Protocol):
    """Which trials end early: a scheduler of Ray Tune, or nothing."""

    def add(self, trial: str, number: int) -> None: ...

    def stops(self, trial: str, step: int, value: float) -> bool: ...

    def ended(self, trial: str, step: int, value: float) -> None:
        """It came to its own end with this result."""
        ...


class NeverStops:
    """`scheduler: none`."""

    def add(self, trial: str, number: int) -> None:
        pass

    def stops(self, trial: str, step: int, value: float) -> bool:
        return False

    def ended(self, trial: str, step: int, value: float) -> None:
        pass


@dataclass(frozen=True)
class Exploit:
    """The trial goes on from another's newest checkpoint, with settings near the other's."""

    donor: str
    settings: dict[str, Any]


GO_ON, STOP = "go on", "stop"


class Judge:
    """The one mind of a sweep. What it has decided before a restart, by the ledger, stands."""

    def __init__(
        self,
        settings: SweepSettings,
        metric: str,
        mode: Mode,
        search: Search,
        ledger: Ledger,
        rule: StopRule,
        perturb_every: int,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings, self.metric, self.mode, self.search = settings, metric, mode, search
        self.ledger, self.rule, self.perturb_every, self.say = ledger, rule, perturb_every, say
        self._given: set[str] = set()
        """Trials that were handed out by this start of the command."""
        for event in list(ledger.events):
            self._tell_rule(event)

    def next_trial(self) -> Trial | None:
        """The next one to be run; None: there are no more. Those that were begun before come first."""
        for trial in self.ledger.trials.values():
            if not trial.ended and trial.name not in self._given:
                self._given.add(trial.name)
                return trial
        number = len(self.ledger.trials)
        if number >= self.search.trials:
            return None
        name = trial_name(number)
        settings = self.search.settings_of(number, [self._past(t) for t in self.ledger.trials.values()])
        self._write("trial", name, settings=settings)
        self._given.add(name)
        return self.ledger.trials[name]

    def begins(self, name: str) -> None:
        trial = self.ledger.trials[name]
        self._write("begin", name)
        words = ", ".join(f"{key} {_short(value)}" for key, value in trial.settings.items())
        again = f", on from step {trial.last_step}" if trial.last_step > 0 else ""
        self.say(f"{name} begins{again}: {words}")

    def result(self, name: str, line: dict[str, Any], last: bool) -> str | Exploit:
        """Of a validation: GO_ON, STOP, or an exploit, which counts when it is done (`exploited`).

        `last`: of the trial's last step. UserError where the validation has no such metric.
        """
        trial, step = self.ledger.trials[name], line["step"]
        if trial.ended or step <= trial.last_step:  # steps that came again after a restart: decided before
            return STOP if trial.ended else GO_ON
        numbers = {key: line[key] for key in line if key.startswith("val_") or key == "bits_per_byte"}
        if self.metric not in numbers:
            has = f"it has {', '.join(numbers)}" if numbers else "there are no validation data"
            raise UserError(f"{name}: its validation has no {self.metric} (sweep.metric): {has}")
        self._write("result", name, step, numbers=numbers, logged=line.get("time"), last=last)
        value = numbers[self.metric]
        if step == 0 or last:
            return GO_ON
        if self.rule.stops(name, step, worst(self.mode) if value is None else value):
            self._write("end", name, step, status="stopped_early", why=f"by {self.settings.scheduler}")
            self.say(f"{name} ends early at step {step}: {self.metric} {_short(value)}")
            return STOP
        self.say(f"{name} step {step}: {self.metric} {_short(value)}{self._leader(trial)}")
        return self._look(trial, step) if self.settings.search == "pbt" else GO_ON

    def exploited(self, name: str, step: int, exploit: Exploit, from_step: int) -> None:
        """The donor's checkpoint, of this step of it, is ready for the trial."""
        old = self.ledger.trials[name].settings
        self._write(
            "exploit", name, step, **{"from": exploit.donor}, from_step=from_step, old=old,
            new=exploit.settings,
        )  # fmt: skip
        words = ", ".join(f"{key} {_short(value)}" for key, value in exploit.settings.items())
        self.say(f"{name} goes on from {exploit.donor} at step {from_step}: {words}")

    def ends(self, name: str, status: str, why: str = "") -> None:
        """It came to its own end. Nothing is written of one that was asked to stop: it goes on later."""
        trial = self.ledger.trials[name]
        if trial.ended or status == "stopped":
            return
        self._write("end", name, max(trial.last_step, 0), status=status, why=why)
        value = trial.numbers().get(self.metric)
        self.say(f"{name} {status}: " + (why if status != "finished" else f"{self.metric} {_short(value)}"))

    def _look(self, trial: Trial, step: int) -> str | Exploit:
        if step - trial.looked_at < self.perturb_every:
            return GO_ON
        self._write("look", trial.name, step)
        values = {}
        for other in self.ledger.trials.values():
            seen = [at for at in other.results if 0 < at <= step]  # those ahead had their value at this step
            if seen and other.status == "running":
                value = other.results[max(seen)].get(self.metric)
                values[other.name] = worst(self.mode) if value is None else value
        share = share_of(self.settings.seed, "donor", trial.name, step, trial.exploits)
        donor = donor_of(trial.name, values, self.mode, self.settings.quantile, share)
        if donor is None:
            return GO_ON
        position = (trial.name, step, trial.exploits)
        theirs = self.ledger.trials[donor].settings
        return Exploit(donor, explored(self.search.domains, theirs, self.settings.seed, position))

    def _past(self, trial: Trial) -> Past:
        value = trial.numbers().get(self.metric)
        ended = trial.ended or trial.status == "failed"
        return Past(trial.settings, value, max(trial.last_step, 0), ended, trial.status != "stopped_early")

    def _write(self, event: str, trial: str, step: int = 0, **more: Any) -> None:
        self.ledger.write(event, trial, step, **more)
        if event != "result" or more["last"] or step == 0:  # of the others the rule is asked
            self._tell_rule(self.ledger.events[-1], asked=False)

    def _tell_rule(self, event: dict[str, Any], asked: bool = True) -> None:
        """The rule hears every event once, in their order; of results before a restart it is asked again."""
        name = event["trial"]
        if event["event"] == "trial":
            self.rule.add(name, self.ledger.trials[name].number)
        elif event["event"] == "result" and event["step"] > 0:
            value = event["numbers"][self.metric]
            number = worst(self.mode) if value is None else value
            if event["last"]:
                self.rule.ended(name, event["step"], number)
            elif asked:
                self.rule.stops(name, event["step"], number)

    def _leader(self, trial: Trial) -> str:
        best: Trial | None = None
        for other in self.ledger.trials.values():
            mine = other.numbers().get(self.metric)
            if is_better(mine, None if best is None else best.numbers().get(self.metric), self.mode):
                best = other
        if best is None or best is trial:
            return ""
        return f" (best: {_short(best.numbers()[self.metric])}, {best.name} step {best.last_step})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
