"""A run in its folder, from a command's options to its summary: lease, what is set aside, launch."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster import places
from cluster.jobs import has_ended, this_job
from cluster.lease import hold
from cluster.recipe import Recipe, read_command
from cluster.settings import ClusterSettings
from llm.run_settings import RunSettings
from llm.train.job import Job
from llm.train.launch import launch
from llm.train.run_folder import RunFolder, begin_run, is_finished, set_aside


@dataclass(frozen=True)
class RunOptions:
    """Flags of a command that trains, beside its recipe's settings."""

    fresh: bool = False
    accept: Sequence[str] = ()
    json: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> RunOptions:
        """Those of a parsed command; the defaults for a recipe that no command line has."""
        return cls(
            **{name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__}
        )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The same for every command that trains."""
    parser.add_argument(
        "--fresh", action="store_true", help="start anew; what an old run folder holds is moved, not deleted"
    )
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="FIELD",
        help="let this plan field differ from the run's own",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")


def train_command(
    section: str,
    description: str,
    argv: Sequence[str],
    run: Callable[[Recipe], dict[str, Any]],
    in_a_line: Callable[[dict[str, Any]], str],
) -> int:
    """`python -m llm.<section> RECIPE ...`: train, then tell of the run by its summary."""
    recipe = read_command(f"python -m llm.{section}", description, argv, add_run_options)
    summary = run(recipe)
    if recipe.options.json:
        sys.stdout.write(places.to_json(summary).decode())
    else:
        print(f"{places.absolute(recipe.out(section))}: {in_a_line(summary)}")
    return 0


@dataclass(frozen=True)
class Run:
    """A run that is to be trained, checked as far as can be without workers."""

    folder: RunFolder
    settings: RunSettings
    data: str
    """Folder of the corpus, or of the examples."""
    vocab_size: int
    start: dict[str, str] | None
    cluster: ClusterSettings
    out: str
    """As the user gave it."""
    began: float
    """Of the command, in Unix seconds."""


Prepared = tuple[Run, RunOptions, Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]
"""What `train_run` takes."""


def train_run(
    run: Run,
    options: RunOptions,
    opened: Callable[[], dict[str, Any]],
    fill: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train under the folder's lease until the run is finished; its summary. A finished one is left alone.

    `opened` gives the run's record, or refuses; `fill` puts beside it what the workers read there.
    """
    folder, settings = run.folder, run.settings
    summary = None if options.fresh else folder.read_summary()
    if not is_finished(summary, settings):
        with hold(folder.path, this_job(), lambda job: has_ended(job, run.cluster)) as lease:
            record = opened()  # as it stands now that nobody else writes it

            def begin() -> None:
                if options.fresh and (aside := set_aside(folder.path)):
                    print(f"the old run was moved to {aside}", file=sys.stderr)
                begin_run(folder, record)
                fill(record)

            job = Job(
                section=settings.section,
                settings=record[settings.section],
                model=record["model"],
                data=run.data,
                vocab_size=run.vocab_size,
                start=run.start,
                run=str(folder.path),
                run_id=record["run_id"],
                launch=secrets.token_hex(8),
                lease=asdict(lease.of_workers),
                cache=run.cluster.cache.arguments,
                began=run.began,
            )
            launch(job, folder, settings, run.cluster, run.out, begin, lease)
        summary = folder.read_summary()
    elif not options.json:
        assert summary is not None
        print(f"{folder.path} is finished: {summary['steps']} steps; nothing to do")
    assert summary is not None
    return summary
