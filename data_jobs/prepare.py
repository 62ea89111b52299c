"""`python -m data_jobs.prepare RECIPE`: raw files to a corpus."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluster import lease, places
from cluster.errors import UserError, run_command
from cluster.places import ObjectPath, Place
from cluster.recipe import Recipe, read_command
from cluster.settings import ClusterSettings
from data_jobs import state
from data_jobs.dedup.near_report import alarms
from data_jobs.hashes import sha256
from data_jobs.pipeline import Build
from data_jobs.ray_splits import RayRunner
from data_jobs.reading.inputs import InputFile, list_files
from data_jobs.settings import CorpusSettings, fixed_settings, without_effect
from data_jobs.shards.manifest import MANIFEST, SPLITS, read_manifest
from data_jobs.work import Runner, run_here

DESCRIPTION = (
    "Read the sources of a recipe, clean them, drop duplicates, train a tokenizer, and write the "
    "shards of a corpus. Stopped at any moment, the same command continues; done before, it does nothing."
)


def main(argv: list[str]) -> int:
    """Entry of the command."""
    recipe = read_command("python -m data_jobs.prepare", DESCRIPTION, argv, _add_options)
    settings = recipe.need(CorpusSettings)
    cluster, place = recipe.get(ClusterSettings), places.at(recipe.out("corpus"))
    if not settings.sources:
        raise UserError(
            f"{recipe.where('corpus.sources')} is empty: give at least one {{name, path, format}}"
        )
    if not isinstance(place, ObjectPath):
        return _prepare(recipe, settings, cluster, place, place)
    out = _scratch(place, cluster)
    with lease.hold(out.with_name(f"{out.name}.writer")):  # two would write into one scratch
        return _prepare(recipe, settings, cluster, out, place)


def _prepare(
    recipe: Recipe, settings: CorpusSettings, cluster: ClusterSettings, out: Path, place: Place
) -> int:
    """Make what is missing of the corpus, in `out`, and send it to `place` if that is another."""
    quiet: bool = recipe.options.json
    files = list_files(settings.sources, recipe.where)
    fixed = fixed_settings(settings)
    # On the way to an object store only the scratch is looked at, once there is any: half of it may be sent.
    begun = out is not place and out.exists() and not (place / MANIFEST).exists()
    found: state.State = "new"
    if recipe.options.fresh:  # what is there goes when all else is known to be right
        begun = False
        state.check_clearable(place)
        state.check_clearable(out)
    else:
        found = state.look(out if begun else place, fixed, files, settings.sources)
    if found == "finished" and not begun:
        manifest = read_manifest(place)
        state.clear_scratch(place)
        if out is not place:
            places.delete_tree(out)
        _say(quiet, f"{place}: is there already, made of the same input by the same settings; nothing to do")
    else:
        if found == "unfinished":
            _say(quiet, f"{place}: going on with what was begun")
        if begun and found == "finished":
            manifest = read_manifest(out)
        else:
            manifest = _build(settings, cluster, out, place, files, recipe.options)
        if isinstance(place, ObjectPath):
            if state.is_half_sent(place):  # maybe by other settings
                state.clear(place)
            places.send_folder(out, place, MANIFEST)
            places.delete_tree(out)
    _say(quiet, _summary(place, manifest))
    for warning in [*warnings_of(settings, manifest), *_alarms(settings, place)]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if quiet:
        print(json.dumps({"path": str(place), **_figures(manifest)}))
    return 0


def _scratch(place: ObjectPath, cluster: ClusterSettings) -> Path:
    """Where the corpus is made that is then sent to an object store."""
    return cluster.cache.folder / "prepare" / f"{place.name}-{sha256(str(place).encode())[:16]}"


def _build(
    settings: CorpusSettings,
    cluster: ClusterSettings,
    out: Path,
    place: Place,
    files: Sequence[InputFile],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Make the corpus in `out`, for a place that may be another; with --fresh what is there goes before."""
    runner: Runner = run_here
    seconds = {}
    with Progress(options.json) as progress, ExitStack() as session:
        if options.engine == "ray":
            started = time.monotonic()
            progress("start Ray", 0, 1)
            runner = session.enter_context(RayRunner(cluster, str(place)))
            progress("start Ray", 1, 1)
            seconds["start Ray"] = round(time.monotonic() - started, 3)
        if options.fresh:
            state.clear(place)
            state.clear(out)
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
    parser.add_argument(
        "--engine",
        choices=["ray", "local"],
        default="ray",
        help="where tasks run: on the Ray cluster, or one after the other in this process (default ray)",
    )


def _figures(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "corpus_id": manifest["corpus_id"],
        "vocab_size": manifest["tokenizer"]["vocab_size"],
        "sources": {source["name"]: source["splits"] for source in manifest["sources"]},
        "counts": manifest["counts"],
    }


def _summary(out: Place, manifest: dict[str, Any]) -> str:
    documents, size = manifest["counts"]["documents"], manifest["counts"]["bytes"]
    totals = [totals for source in manifest["sources"] for totals in source["splits"].values()]
    tokens = sum(split["tokens"] for split in totals)
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in documents["dropped"].items()) or "none"
    return (
        f"{out}: {documents['out']:,} of {documents['in']:,} documents (dropped: {dropped}), "
        f"{size['out']:,} bytes, {tokens:,} tokens, vocabulary {manifest['tokenizer']['vocab_size']:,}, "
        f"{sum(split['shards'] for split in totals)} shards"
    )


def warnings_of(settings: CorpusSettings, manifest: dict[str, Any]) -> list[str]:
    """What was asked for and is not in the corpus: said here, not at the first evaluation."""
    lines = []
    found = {split for source in manifest["sources"] for split in source["splits"]}
    asked = {"train": 1 - settings.val_fraction, "val": settings.val_fraction}
    remedy = {"train": "lower", "val": "raise"}
    lines += [
        f"no document fell into {split}: {remedy[split]} corpus.val_fraction ({settings.val_fraction:g}), or "
        "add documents"
        for split in SPLITS
        if split not in found and asked[split]
    ]
    wanted, got = settings.tokenizer.vocab_size, manifest["tokenizer"]["vocab_size"]
    texts = not any(source.format == "images" for source in settings.sources)
    if settings.tokenizer.path is None and texts and got < wanted:
        lines.append(
            f"corpus.tokenizer.vocab_size is {wanted:,}, the tokenizer has {got:,} entries: the text "
            "gives no more"
        )
    if settings.tokenizer.path is not None:
        unused = sorted(settings.tokenizer.model_fields_set - {"path"})
        if unused:
            names = ", ".join(f"corpus.tokenizer.{name}" for name in unused)
            lines.append(
                f"no effect: {names}: the tokenizer of corpus.tokenizer.path is used as it is, with {got:,} "
                "entries"
            )
    lines += [f"no effect: {name}: nothing in the recipe asks for it" for name in without_effect(settings)]
    return lines


def _alarms(settings: CorpusSettings, place: Place) -> list[str]:
    """What near duplicates took too much of; the report may be missing beside a corpus that was copied."""
    if settings.dedup != "minhash" or not (place / state.REPORT).exists():
        return []
    report = json.loads((place / state.REPORT).read_bytes())
    return alarms(report["near_duplicates"], settings.minhash.alarm_fraction)


def _say(quiet: bool, text: str) -> None:
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)


if __name__ == "__main__":
    run_command(main)
