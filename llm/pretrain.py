"""Pretrain a model on a corpus: `python -m llm.pretrain RECIPE [--section.key VALUE ...]`."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from dataclasses import asdict
from typing import Any

from cluster import places
from cluster.errors import run_command
from cluster.jobs import has_ended, this_job
from cluster.lease import hold
from cluster.recipe import Recipe, read_command
from cluster.settings import ClusterSettings
from data_jobs import open_corpus
from data_jobs.tokens.tokenizer import Tokenizer
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.save import committed_folders
from llm.train.launch import check_fits, launch
from llm.train.run_folder import RunFolder, begin_run, open_run, set_aside
from llm.train.start import check_start, find_start, model_over
from llm.train.worker import Job

DESCRIPTION = """Pretrain a model on a corpus. The same command again continues from the last good checkpoint
and ends with the same result; a finished run is left alone."""


def main(argv: list[str]) -> int:
    began = time.time()
    recipe = read_command("python -m llm.pretrain", DESCRIPTION, argv, _options)
    settings = recipe.need(PretrainSettings)
    run = RunFolder(places.absolute(recipe.out("pretrain")))
    if settings.start_from is not None:
        settings = settings.model_copy(update={"start_from": str(places.absolute(settings.start_from))})
    corpus_path = settings.corpus or recipe.out("corpus")
    cache = recipe.get(ClusterSettings).cache
    corpus = open_corpus(corpus_path, "read", cache)  # the workers check what they read
    model, vocab_size, start = _model(recipe, settings.start_from, run, corpus.tokenizer)
    facts = {
        "path": str(places.absolute(corpus_path)),
        "corpus_id": corpus.corpus_id,
        "tokenizer": corpus.tokenizer.fingerprint,
        "vocab_size": vocab_size,
        "clean": {
            name.removeprefix("clean."): value
            for name, value in corpus.manifest["settings"].items()
            if name.startswith("clean.")
        },
    }

    def opened() -> dict[str, Any]:
        return open_run(
            run, model, settings, facts, recipe.options.accept, recipe.options.fresh, start
        )  # fmt: skip

    opened()  # refuses other settings, before anybody is waited for
    check_fits(model, settings, corpus, RunFolder(run.path / "new") if recipe.options.fresh else run)
    summary = None if recipe.options.fresh else run.read_summary()
    if summary is None or summary["steps"] < settings.steps:
        cluster = recipe.get(ClusterSettings)
        with hold(run.path, this_job(), lambda job: has_ended(job, cluster)) as lease:
            record = opened()  # as it stands now that nobody else writes it

            def begin() -> None:
                if recipe.options.fresh and (aside := set_aside(run.path)):
                    print(f"the old run was moved to {aside}", file=sys.stderr)
                begin_run(run, record)
                corpus.tokenizer.save(run.tokenizer)

            job = Job(
                model=record["model"],
                pretrain=record["pretrain"],
                corpus=record["corpus"]["path"],
                vocab_size=vocab_size,
                start=start,
                run=str(run.path),
                run_id=record["run_id"],
                launch=secrets.token_hex(8),
                lease=asdict(lease.of_workers),
                cache=cache.arguments,
                began=began,
            )
            launch(job, run, settings, cluster, recipe.out("pretrain"), begin, lease)
        summary = run.read_summary()
        assert summary is not None
    elif not recipe.options.json:
        print(f"{run.path} is finished: {summary['steps']} steps; nothing to do")
    _tell(recipe, run, summary)
    return 0


def _model(
    recipe: Recipe, start_from: str | None, run: RunFolder, tokenizer: Tokenizer
) -> tuple[ModelSettings, int, dict[str, str] | None]:
    """Model, rows of its embedding, and the start's record: looked at only while the run needs it."""
    if start_from is None:
        return recipe.need(ModelSettings), tokenizer.vocab_size, None
    given = recipe.get(ModelSettings).model_dump(exclude_unset=True) if "model" in recipe.sections else {}
    if not recipe.options.fresh and committed_folders(run.checkpoints):
        saved = run.read_settings()
        model = ModelSettings.model_validate(saved["model"] | given)
        return model, saved["corpus"]["vocab_size"], saved.get("start")
    start = find_start(start_from, recipe.get(ClusterSettings).cache)
    model = model_over(start, given)
    check_start(start, start_from, model, tokenizer.fingerprint)
    return model, start.vocab_size, start.record


def _options(parser: argparse.ArgumentParser) -> None:
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


def _tell(recipe: Recipe, run: RunFolder, summary: dict[str, Any]) -> None:
    if recipe.options.json:
        sys.stdout.write(places.to_json(summary).decode())
        return
    print(f"{run.path}: {in_a_line(summary)}")


def in_a_line(summary: dict[str, Any]) -> str:
    """A finished run in a line."""
    words = [f"{summary['parameters']:,} parameters", f"{summary['steps']} steps"]
    if summary["loss"] is not None:
        words.append(f"loss {summary['loss']:.4f}")
    if summary["val_loss"] is None:
        return ", ".join([*words, "no validation documents (corpus.val_fraction)"])
    words.append(f"validation {summary['val_loss']:.4f}")
    if summary["bits_per_byte"] is not None:
        words.append(f"{summary['bits_per_byte']:.4f} bits per byte")
    if "val_masked_accuracy" in summary:
        words.append(f"masked accuracy {summary['val_masked_accuracy']:.4f}")
    if "val_nsp_accuracy" in summary:
        words.append(f"next sentence accuracy {summary['val_nsp_accuracy']:.4f}")
    return ", ".join(words)


if __name__ == "__main__":
    run_command(main)
