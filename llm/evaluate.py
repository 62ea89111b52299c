"""Measure a trained model: `python -m llm.evaluate RUN`.

A pretrained one on its corpus or on a text file (`--text FILE`), a fine-tuned one on the test part of its
examples or on a file of others (`--data FILE`).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cluster.errors import UserError, run_command
from llm.evaluation.local_workers import run_together
from llm.evaluation.subject import trained
from llm.evaluation.tasks import PARTS, measure_task, part_of_file, part_of_run
from llm.evaluation.texts import measure_text, text_of_corpus, text_of_file
from llm.loading import load
from llm.tasks.bootstrap import RESAMPLES
from llm.train.group import Group

OF_TASKS = ("data", "bootstrap", "generate")
OF_TEXTS = ("text", "length")


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    if options.workers < 1 or options.batch < 1:
        raise UserError("--workers and --batch must be at least 1")
    result, words = run_together(measured, options.workers, vars(options))
    print(json.dumps(result) if options.json else words)
    return 0


def measured(group: Group, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What one worker of a measurement does, and what all of them know then: the numbers, in words too."""
    options = argparse.Namespace(**given)
    loaded = load(options.run)
    precision = options.precision or trained(loaded, "precision", "fp32")
    if "task" in loaded.settings and options.text is None:
        _refuse(options, OF_TEXTS, "is for a text file: this run has a task, and is measured on its examples")
        if options.data is not None and options.split is not None:
            raise UserError("--data and --split: give one of them, a file or a part of the examples")
        resamples = RESAMPLES if options.bootstrap is None else options.bootstrap
        if resamples < 0:
            raise UserError(f"--bootstrap must be 0 (none) or more, it is {resamples}")
        chosen = part_of_file(loaded, options.data) if options.data else part_of_run(loaded, options.split)
        if options.generate and chosen.examples.kind != "instruction":
            raise UserError(
                f"--generate: the run's task is {chosen.examples.kind}, which writes no answers: leave it out"
            )
        return measure_task(loaded, chosen, precision, options.batch, resamples, options.generate, group)
    _refuse(options, OF_TASKS, "is for a fine-tuned run, and this is measured on a text")
    if options.text is not None:
        text = text_of_file(loaded, options.text, options.length, options.batch)
    else:
        _refuse(options, ("length",), "is for --text: a corpus is read in rows as in training")
        text = text_of_corpus(loaded, options.split or "val", options.batch)
    return measure_text(loaded, text, precision, group)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, False)]
    if given:
        raise UserError(f"{', '.join(given)}: {why}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.evaluate", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder or one of its checkpoints; a path or s3://bucket/name")
    add("--batch", type=int, default=16, help="rows at once (default 16)")
    add("--precision", choices=("fp32", "bf16"), help="default: the run's own")
    add("--workers", type=int, default=1, help="processes of this machine that share the work (default 1)")
    add("--json", action="store_true", help="one JSON object on stdout")
    add(
        "--split", choices=PARTS,
        help="train or val of the corpus (default val); train, val or test of a task's examples (default "
        "test, where there is one)",
    )  # fmt: skip
    texts = parser.add_argument_group("with a text").add_argument
    texts("--text", metavar="FILE", help="evaluate this text file (default: the corpus' split)")
    texts(
        "--length", type=int, help="tokens of a window over --text (default: as in training; imported: 1024)"
    )
    tasks = parser.add_argument_group("with a fine-tuned run").add_argument
    tasks("--data", metavar="FILE", help="examples of the same task: .jsonl, .csv or .parquet, or a glob")
    tasks(
        "--bootstrap", type=int, metavar="N",
        help=f"resamples for the 95 %% intervals; 0: without (default {RESAMPLES})",
    )  # fmt: skip
    tasks("--generate", action="store_true", help="instruction: write the answers, too, and compare them")
    return parser


if __name__ == "__main__":
    run_command(main)
