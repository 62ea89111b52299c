"""`python -m data_jobs.prepare RECIPE`: raw files to a corpus."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluster.errors import UserError, run_command
from cluster.recipe import read_command
from cluster.settings import ClusterSettings
from data_jobs import state
from data_jobs.inputs import InputFile, list_files
from data_jobs.manifest import SPLITS, read_manifest
from data_jobs.pipeline import Build
from data_jobs.ray_splits import RayRunner
from data_jobs.settings import CorpusSettings, fixed_settings

DESCRIPTION = (
    "Read the sources of a recipe, clean them, drop exact duplicates, train a tokenizer, and write the "
    "shards of a corpus. Stopped at any moment, the same command continues; done before, it does nothing."
)


def main(argv: list[str]) -> int:
    """Entry of the command."""
    recipe = read_command("python -m data_jobs.prepare", DESCRIPTION, argv, _add_options)
    settings = recipe.need(CorpusSettings)
    out = Path(recipe.out("corpus"))
    quiet: bool = recipe.options.json
    if not settings.sources:
        raise UserError(f"{recipe.path}: corpus.sources is empty: give at least one {{name, path, format}}")
    files = list_files(settings.sources)
    if recipe.options.fresh:
        state.clear(out)
    found = state.look(out, fixed_settings(settings), files, settings.sources)
    if found == "finished":
        manifest = read_manifest(out)
        state.clear_scratch(out)
        _say(quiet, f"{out}: is there already, made of the same input by the same settings; nothing to do")
    else:
        if found == "unfinished":
            _say(quiet, f"{out}: going on with what was begun")
        manifest = _build(settings, recipe.get(ClusterSettings), out, files, quiet)
    _say(quiet, _summary(out, manifest))
    if quiet:
        print(json.dumps({"path": str(out), **_figures(manifest)}))
    return 0


def _build(
    settings: CorpusSettings, cluster: ClusterSettings, out: Path, files: Sequence[InputFile], quiet: bool
) -> dict[str, Any]:
    with Progress(quiet) as progress:
        started = time.monotonic()
        progress("start Ray", 0, 1)
        with RayRunner(cluster, str(out)) as runner:
            progress("start Ray", 1, 1)
            seconds = {"start Ray": round(time.monotonic() - started, 3)}
            return Build(settings, out.absolute(), files, runner, progress, seconds).run()


_LINES = 4


class Progress:
    """Stages on the screen: a bar on a terminal, else a line at the start and after each quarter."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._title = ""
        self._step = ("", -1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, title: str, done: int, all_jobs: int) -> None:
        if self._quiet:
            return
        if not sys.stderr.isatty():
            step = (title, done * _LINES // max(1, all_jobs))
            if step != self._step:
                print(f"{title}: {done} of {all_jobs}", file=sys.stderr, flush=True)
            self._step = step
            return
        if title != self._title:
            self._close()
            self._bar = tqdm(total=all_jobs, desc=title, unit="task")
            self._title = title
        assert self._bar is not None
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the counts of the corpus as JSON, and nothing else"
    )
    parser.add_argument("--fresh", action="store_true", help="remove the corpus that is there and begin anew")


def _figures(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "corpus_id": manifest["corpus_id"],
        "vocab_size": manifest["tokenizer"]["vocab_size"],
        "sources": {source["name"]: source["splits"] for source in manifest["sources"]},
        "counts": manifest["counts"],
    }


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    documents, size = manifest["counts"]["documents"], manifest["counts"]["bytes"]
    totals = [totals for source in manifest["sources"] for totals in source["splits"].values()]
    tokens = sum(split["tokens"] for split in totals)
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in documents["dropped"].items()) or "none"
    return (
        f"{out}: {documents['out']:,} of {documents['in']:,} documents (dropped: {dropped}), "
        f"{size['out']:,} bytes, {tokens:,} tokens, vocabulary {manifest['tokenizer']['vocab_size']:,}, "
        f"{sum(split['shards'] for split in totals)} shards{_missing_splits(manifest)}"
    )


def _missing_splits(manifest: dict[str, Any]) -> str:
    """A small corpus may have no validation document: say so here, not at the first evaluation."""
    found = {split for source in manifest["sources"] for split in source["splits"]}
    missing = [split for split in SPLITS if split not in found]
    return f"\nwarning: no document fell into {', '.join(missing)} (corpus.val_fraction)" if missing else ""


def _say(quiet: bool, text: str) -> None:
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)


if __name__ == "__main__":
    run_command(main)
