"""`python -m data_jobs.prepare RECIPE`: raw files to a corpus."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluster import lease, places
from cluster.errors import UserError, run_command
from cluster.places import ObjectPath, Place
from cluster.recipe import read_command
from cluster.settings import ClusterSettings
from data_jobs import state
from data_jobs.dedup.evaluation_task import check_evaluations
from data_jobs.dedup.minhash import found_share
from data_jobs.dedup.near_report import alarms
from data_jobs.hashes import sha256
from data_jobs.pipeline import Build
from data_jobs.ray_splits import RayRunner
from data_jobs.reading.inputs import InputFile, list_files
from data_jobs.settings import CorpusSettings, fixed_settings, without_effect
from data_jobs.shards.manifest import MANIFEST, SPLITS, read_manifest
from data_jobs.work import FOLDER, Runner, run_here

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
    out = _scratch(place, cluster) if isinstance(place, ObjectPath) else place
    files = list_files(settings.sources, recipe.where)
    work = _Prepare(settings, cluster, recipe.options, files, place, out)
    # What is finished may stand where nobody may write; and what is refused leaves nothing behind.
    if work.look() == "finished" and work.is_clean():
        return work.tell(work.nothing_to_do())
    with lease.hold(place) as held:
        return work.tell(work.make(held.of_workers.check))


@dataclass(frozen=True)
class _Prepare:
    """One start of the command: a corpus for `place` made in `out`, which is another for an object store."""

    settings: CorpusSettings
    cluster: ClusterSettings
    options: argparse.Namespace
    files: Sequence[InputFile]
    place: Place
    out: Path

    @functools.cached_property
    def _fixed(self) -> dict[str, Any]:
        return fixed_settings(self.settings)

    def look(self) -> state.State:
        """What is there; UserError where it is in the way. With --fresh nothing is, if it may be removed."""
        fixed = self._fixed  # what it names must be readable before anything is removed
        if self.options.fresh:
            state.check_clearable(self.place)
            state.check_clearable(self.out)
            return "new"
        there = self.out if self._is_begun() else self.place
        return state.look(there, fixed, self.files, self.settings.sources)

    def is_clean(self) -> bool:
        """Whether a finished corpus has nothing beside it that its last moment should have removed."""
        return not any(
            there.exists() for there in (self.place / FOLDER, self._sent_from) if there is not None
        )

    def nothing_to_do(self) -> dict[str, Any]:
        """The manifest of a corpus that is finished."""
        made = "made of the same input by the same settings"
        self._say(f"{self.place}: is there already, {made}; nothing to do")
        return read_manifest(self.place)

    def make(self, check: Callable[[], None]) -> dict[str, Any]:
        """Make what is missing, and send it: the manifest. `check` raises where another writes there."""
        found = self.look()  # again: another may have written there until now
        begun = self._is_begun()
        if found == "finished" and not begun:
            self._clear_scratch()
            return self.nothing_to_do()
        if found == "unfinished":
            self._say(f"{self.place}: going on with what was begun")
        manifest = read_manifest(self.out) if found == "finished" else self._build(check)
        if isinstance(self.place, ObjectPath):
            check()
            if state.is_half_sent(self.place):  # maybe by other settings
                state.clear(self.place)
            state.clear_scratch(self.out)  # it holds texts, and is no part of the corpus
            places.send_folder(self.out, self.place, MANIFEST)
            self._clear_scratch()
        return manifest

    def tell(self, manifest: dict[str, Any]) -> int:
        """Counts and warnings of a corpus that is there."""
        self._say(_summary(self.place, manifest))
        for warning in [*warnings_of(self.settings, manifest), *_alarms(self.settings, self.place)]:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        if self.options.json:
            print(json.dumps({"path": str(self.place), **_figures(manifest)}))
        return 0

    @property
    def _sent_from(self) -> Path | None:
        return None if self.out is self.place else self.out

    def _is_begun(self) -> bool:
        """Whether only the scratch of a corpus for an object store is to be looked at: half may be sent."""
        there = self._sent_from
        return (
            there is not None
            and not self.options.fresh
            and there.exists()
            and not (self.place / MANIFEST).exists()
        )

    def _clear_scratch(self) -> None:
        state.clear_scratch(self.place)
        if self._sent_from is not None:
            places.delete_tree(self._sent_from)

    def _build(self, check: Callable[[], None]) -> dict[str, Any]:
        """Make the corpus in `out`; with --fresh what is there goes when all else is known to be right."""
        check_evaluations(self.settings.decontaminate.files)
        runner: Runner = run_here
        seconds = {}
        with Progress(self.options.json) as progress, ExitStack() as session:
            if self.options.engine == "ray":
                started = time.monotonic()
                progress("start Ray", 0, 1)
                runner = session.enter_context(RayRunner(self.cluster, str(self.place)))
                progress("start Ray", 1, 1)
                seconds["start Ray"] = round(time.monotonic() - started, 3)
            if self.options.fresh:
                state.clear(self.place)
                state.clear(self.out)
            build = Build(
                self.settings, self.out.absolute(), self.files, runner, progress, seconds, check=check
            )
            return build.run()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr if self.options.json else sys.stdout, flush=True)


def _scratch(place: ObjectPath, cluster: ClusterSettings) -> Path:
    """Where the corpus is made that is then sent to an object store."""
    return cluster.cache.folder / "prepare" / f"{place.name}-{sha256(str(place).encode())[:16]}"


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
    lines += _of_banding(settings)
    lines += [f"no effect: {name}: nothing in the recipe asks for it" for name in without_effect(settings)]
    return lines


def _of_banding(settings: CorpusSettings) -> list[str]:
    """A warning where bands and rows do not fit the threshold of near duplicates."""
    wanted = settings.minhash
    share = found_share(wanted.threshold, wanted.bands, wanted.rows)
    if settings.dedup != "minhash" or share >= 0.5:
        return []
    return [
        f"corpus.minhash: of pairs at the threshold {wanted.threshold:g} only {100 * share:.0f} % are found "
        f"with {wanted.bands} bands of {wanted.rows} rows: take fewer rows or more bands"
    ]


def _alarms(settings: CorpusSettings, place: Place) -> list[str]:
    """What near duplicates took too much of; the report may be missing beside a corpus that was copied."""
    if settings.dedup != "minhash" or not (place / state.REPORT).exists():
        return []
    report = json.loads((place / state.REPORT).read_bytes())
    return alarms(report["near_duplicates"], settings.minhash.alarm_fraction)


if __name__ == "__main__":
    run_command(main)
