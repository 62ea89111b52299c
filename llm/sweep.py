"""Run many trainings that differ in a few settings: `python -m llm.sweep RECIPE [--section.key VALUE]`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Any

from cluster import places
from cluster.errors import RunError, run_command
from cluster.jobs import has_ended, this_job
from cluster.lease import Lease, hold
from cluster.recipe import Recipe, read_command
from cluster.settings import ClusterSettings
from llm.run_settings import RunSettings
from llm.settings import SweepSettings
from llm.train.run_folder import set_aside
from llm.tune.folder import SweepFolder, open_sweep, scratch
from llm.tune.judge import Judge
from llm.tune.ledger import Ledger, lineage, read_trials
from llm.tune.plan import Plan, check_sweep
from llm.tune.results import as_text, best_row, rows_of, summary_of, table, write_best
from llm.tune.space import kept_fields
from llm.tune.trial import Work

DESCRIPTION = """Run many fine-tunings or pretrainings that differ in the settings of sweep.space, side by
side on Ray Tune. The same command again leaves what is finished and goes on with the rest; best/ in the sweep
folder is the best run."""
LOUD = ("warning", "error", "failed", "Traceback")


def main(argv: list[str]) -> int:
    began = time.time()
    recipe = read_command("python -m llm.sweep", DESCRIPTION, argv, _options)
    sweep = recipe.need(SweepSettings)
    folder = SweepFolder(places.absolute(recipe.out("sweep")))
    plan = check_sweep(recipe, sweep, folder)
    fresh = recipe.options.fresh
    record = open_sweep(folder, recipe.name, _record(recipe, plan), plan.search.trials, fresh)
    summary = None if fresh else folder.read_summary()
    if summary is None or summary["trials"] < plan.search.trials:
        cluster = recipe.get(ClusterSettings)
        with hold(folder.path, this_job(), lambda job: has_ended(job, cluster)) as lease:
            record = open_sweep(folder, recipe.name, record, plan.search.trials, fresh)
            summary = _run(recipe, plan, folder, record, lease, began)
    elif not recipe.options.json:
        print(f"{folder.path} is finished: {summary['trials']} trials; nothing to do")
    _tell(recipe, folder, summary)
    return 0


def _run(
    recipe: Recipe, plan: Plan, folder: SweepFolder, record: dict[str, Any], lease: Lease, began: float
) -> dict[str, Any]:
    """All trials that are left, then what they came to."""
    cluster = recipe.get(ClusterSettings)
    command = importlib.import_module(f"llm.{plan.of}")
    work = Work(
        command.run, recipe.name, str(recipe.path), plan.of, plan.sections, str(folder.path),
        record["sweep_id"],
    )  # fmt: skip

    def prepare() -> list[RunSettings]:
        """What the command itself refuses, and the rows of a task's examples, which the trials share."""
        found = [command.prepare(work.recipe("none", settings)) for settings in plan.distinct()]
        return [run.settings for run, *_ in found]

    first = prepare()[0]
    grace = plan.grace(first)
    _say("starting Ray" if not cluster.address else f"connecting to Ray at {cluster.address}")
    from cluster.ray_runtime import check_output_place, ray_session
    from llm.train.ray_workers import start_coordinator
    from llm.tune.ray_tune import run_trials, stop_rule
    from llm.tune.room import concurrent_trials

    with ray_session(cluster, lambda line: any(word in line for word in LOUD)):
        check_output_place(recipe.out("sweep"), "sweep.out")
        need, concurrent = concurrent_trials(first, plan.sweep, cluster, _say)
        concurrent = plan.check_concurrent(concurrent)
        if recipe.options.fresh and (aside := set_aside(folder.path)):
            _say(f"the old sweep was moved to {aside}")
            prepare()  # its rows were moved, too
        folder.path.mkdir(parents=True, exist_ok=True)
        places.write_json(folder.record, record)
        ledger = Ledger(folder.ledger, lease.of_workers.check)
        try:
            done = sum(trial.ended for trial in ledger.trials.values())
            _say(
                f"{plan.search.trials} trials of {plan.of}" + (f", {done} of them done" if done else "")
                + f", {concurrent} at a time: {need}"
            )  # fmt: skip
            judge = Judge(
                plan.sweep, plan.metric, plan.mode, plan.search, ledger,
                stop_rule(plan.sweep, plan.mode, grace), plan.perturb_every(first), _say,
            )  # fmt: skip
            work = work.with_cpus(int(need.bundle["CPU"]))
            start_coordinator()
            run_trials(
                judge, work, concurrent, scratch(folder, cluster.cache.arguments[0], record["sweep_id"]),
                first.max_failures, lease,
            )  # fmt: skip
        finally:
            ledger.close()
            _write_table(folder, plan, ledger)
    return _finish(folder, plan, ledger, record["sweep_id"], began)


def _write_table(folder: SweepFolder, plan: Plan, ledger: Ledger) -> None:
    if ledger.trials:
        rows = rows_of(folder, ledger.trials.values(), plan.metric, plan.mode)
        places.write_bytes(folder.table, table(rows))
        lines = b"".join(places.to_json(line) for line in lineage(ledger.events))
        if lines:
            places.write_bytes(folder.lineage, lines)


def _finish(folder: SweepFolder, plan: Plan, ledger: Ledger, sweep_id: str, began: float) -> dict[str, Any]:
    """best/, then summary.json and the page. RunError where a trial failed, or none has a result."""
    rows = rows_of(folder, ledger.trials.values(), plan.metric, plan.mode)
    best = best_row(rows, plan.metric, plan.mode)
    if best is not None:
        write_best(folder, best)
    failed = [row.trial for row in rows if not row.trial.ended]
    if failed:
        lines = [f"{trial.name}: {trial.why or 'did not end'}" for trial in failed]
        raise RunError(
            f"{len(failed)} of {len(rows)} trials failed; the same command tries them again:\n       "
            + "\n       ".join(lines)
            + f"\n       what the others came to is in {folder.table}"
        )
    if best is None:
        raise RunError(f"no trial has a checkpoint with a finite {plan.metric}: see {folder.table}")
    summary = summary_of(rows, plan.metric, plan.mode, sweep_id, time.time() - began)
    places.write_json(folder.summary, summary)
    from llm.report import write_report

    write_report(folder.path)
    return summary


def _record(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """What the sweep folder says of its sweep; under `recipe` what must be equal when it goes on."""
    sweep = plan.sweep
    kept = dict(kept_fields(sweep, "sweep"))
    for section, settings in recipe.sections.items():
        if section in ("model", plan.of):
            kept |= dict(kept_fields(settings, section))
    return {
        "section": plan.of,
        "space": sweep.space,
        "search": sweep.search,
        "scheduler": sweep.scheduler,
        "metric": plan.metric,
        "mode": plan.mode,
        "recipe": kept,
    }


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start anew; what an old sweep folder holds is moved, not deleted",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")


def _tell(recipe: Recipe, folder: SweepFolder, summary: dict[str, Any]) -> None:
    if recipe.options.json:
        sys.stdout.write(places.to_json(summary).decode())
        return
    metric = summary["metric"]
    print(
        as_text(
            rows_of(folder, read_trials(folder.ledger).values(), metric, summary["mode"]),
            metric,
            summary["mode"],
        )
    )
    best = summary["best"]
    words = ", ".join(f"{name} {value}" for name, value in best["settings"].items())
    print(
        f"{summary['trials']} trials, {summary['stopped_early']} stopped early; best is {best['trial']} at "
        f"step {best['step']}: {metric} {best['metrics'][metric]:.4f} with {words}\n"
        f"{folder.best}: its run folder"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
