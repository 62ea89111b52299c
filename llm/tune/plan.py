"""A sweep before it starts: everything that a recipe can be refused for, and what all trials have alike."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cluster import places
from cluster.errors import UserError
from cluster.recipe import Recipe
from llm.run_settings import RunSettings
from llm.settings import RUNS, FinetuneSettings, ModelSettings
from llm.sweep_settings import SweepSettings, Values
from llm.tune.folder import SweepFolder
from llm.tune.rules import Mode, known_metrics, metric_of, mode_of
from llm.tune.search import Search
from llm.tune.space import check_space, combinations, problem_with, with_settings


@dataclass(frozen=True)
class Plan:
    """What is to be run, checked."""

    sweep: SweepSettings
    of: str
    metric: str
    mode: Mode
    search: Search
    sections: dict[str, dict[str, Any]]
    """The recipe of every trial, but for its own settings."""

    def distinct(self) -> list[dict[str, Any]]:
        """Settings of trials that need data or a model of their own: all checked, and their rows made, ahead.

        Optuna's are not known ahead: of those its lists are taken, with the first trial's numbers.
        """
        own = (
            "model.",
            *(f"{self.of}.{name}" for name in ("task.", "length", "seed", "train_only", "lora.")),
        )
        names = [name for name in self.sweep.space if name.startswith(own)]
        rows = self.search.ahead()
        if not rows:
            lists = {name: d for name in names if isinstance(d := self.sweep.domains[name], Values)}
            rows = [self.search.settings_of(0) | row for row in combinations(lists)]
        kinds = {repr([row[name] for name in names]): row for row in reversed(rows)}
        return list(reversed(kinds.values()))

    def grace(self, run: RunSettings) -> int:
        """Steps before which no trial is ended."""
        return self.sweep.grace or run.validation.every or run.steps

    def perturb_every(self, run: RunSettings) -> int:
        """pbt: steps between two looks at a trial."""
        return self.sweep.perturb_every or run.validation.every or run.steps

    def check_concurrent(self, concurrent: int) -> int:
        """UserError where a population cannot train side by side: some would be over before the rest."""
        if self.sweep.search == "pbt" and concurrent < self.search.trials:
            raise UserError(
                f"sweep.search pbt trains its {self.search.trials} trials at the same time, and there is "
                f"room for {concurrent}: lower sweep.trials to {concurrent}, or give them more room (fewer "
                "workers, cpus_per_worker, cluster.num_cpus)"
            )
        return min(concurrent, self.search.trials)


def check_sweep(recipe: Recipe, sweep: SweepSettings, folder: SweepFolder) -> Plan:
    """The plan of a recipe's sweep. UserError for all that is known to be wrong before anything starts."""
    of = sweep.of
    run = recipe.need(RUNS[of])
    metric = metric_of(sweep, run)
    model = next((s for s in recipe.sections.values() if isinstance(s, ModelSettings)), None)
    _check_metric(recipe, metric, run, model)
    _check_run(run, sweep)
    given = {
        name: settings.model_dump(mode="json", exclude_unset=True)
        for name, settings in recipe.sections.items()
        if name in ("model", of, "cluster")
    }
    sections = with_settings(given, _alike(recipe, run, metric, folder))
    check_space(sections, sweep)
    search = Search(sweep, mode_of(sweep, metric))
    for number, settings in enumerate(search.ahead()):
        if why := problem_with(sections, of, settings):
            words = ", ".join(f"{name} {value!r}" for name, value in settings.items())
            raise UserError(f"sweep.space: trial {number} would have {words}: {why}")
    return Plan(sweep, of, metric, mode_of(sweep, metric), search, sections)


def _check_metric(recipe: Recipe, metric: str, run: RunSettings, model: ModelSettings | None) -> None:
    known = known_metrics(run, model)
    # Without the classes' names, those of one class are known when the examples were read.
    open_names = isinstance(run, FinetuneSettings) and not run.task.labels
    if metric in known or (open_names and metric.startswith(("val_f1_", "val_precision", "val_recall"))):
        return
    if open_names and metric == "val_f1":  # of two classes
        return
    what = f"task {run.task.kind}" if isinstance(run, FinetuneSettings) else "pretraining"
    near = difflib.get_close_matches(metric, known, 1)
    raise UserError(
        f"{recipe.where('sweep.metric')}: {metric!r}: {what} has no such number"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" It has {', '.join(known)}"
    )


def _check_run(run: RunSettings, sweep: SweepSettings) -> None:
    section, validation = run.section, run.validation
    if run.launch == "here":
        raise UserError(f"{section}.launch is here: the trials of a sweep have Ray's workers; set it to ray")
    if validation.where == "workers":
        raise UserError(
            f"{section}.validation.where is workers: trials are compared while they train; set it to trainer"
        )
    if not validation.every and (sweep.scheduler != "none" or sweep.search == "pbt"):
        raise UserError(
            f"{section}.validation.every is 0: sweep.{'search' if sweep.search == 'pbt' else 'scheduler'} "
            "compares trials at their validations"
        )
    if run.knows_steps:
        for name, value in (("grace", sweep.grace), ("perturb_every", sweep.perturb_every)):
            if value is not None and value >= run.steps:
                raise UserError(
                    f"sweep.{name} ({value}) is not before the last step ({section}.steps {run.steps})"
                )


def _alike(recipe: Recipe, run: RunSettings, metric: str, folder: SweepFolder) -> dict[str, Any]:
    """What all trials have and the recipe may not say: places that mean the same in every process, and what
    is kept of each."""
    of, given = run.section, dict[str, Any]()
    if of == "pretrain":
        given["pretrain.corpus"] = _absolute(getattr(run, "corpus", None) or recipe.out("corpus"))
        if start := getattr(run, "start_from", None):
            given["pretrain.start_from"] = _absolute(start)
    elif isinstance(run, FinetuneSettings):
        given["finetune.start_from"] = _absolute(run.start_from or recipe.out("pretrain"))
        given["finetune.examples"] = _absolute(run.examples) if run.examples else str(folder.examples)
        given["finetune.best_by"] = metric
        for part in ("train", "val", "test"):
            if path := getattr(run.data, part):
                given[f"finetune.data.{part}"] = _absolute(path)
    if not run.checkpoint.keep_best and _may_keep_best(run):
        given[f"{of}.checkpoint.keep_best"] = 1
    return given


def _may_keep_best(run: RunSettings) -> bool:
    """Whether checkpoints can be compared: not where none but the last is validated."""
    values: Mapping[str, Any] = run.model_dump()
    checkpoint = values["checkpoint"] | {"keep_best": 1}
    try:
        type(run).model_validate({**values, "checkpoint": checkpoint})
    except ValidationError:
        return False
    return True


def _absolute(path: str) -> str:
    return str(places.absolute(path))
