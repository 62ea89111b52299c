"""The flow from files to a corpus: read and clean, leave out what is repeated, train, encode, merge, commit.

Every stage is a list of jobs with one receipt each (`work.py`). This file decides which jobs there are;
nothing of it depends on who runs them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.fault_points import fault_point
from cluster.places import delete_tree, to_json, write_bytes, write_json
from data_jobs import state
from data_jobs.clean_task import clean_split
from data_jobs.dedup.decontaminate import drop_contaminated
from data_jobs.dedup.near_duplicates import drop_near_duplicates
from data_jobs.dedup.repeats import remove_repeats
from data_jobs.finish import Finished, StageReceipts, check_left, check_readable, write_corpus
from data_jobs.hashes import sha256
from data_jobs.reading.inputs import InputFile, Split, cut_splits
from data_jobs.rejects import RejectSample
from data_jobs.settings import CorpusSettings, fixed_settings, metadata_of
from data_jobs.shards.gather_task import gather_runs, groups_of
from data_jobs.shards.manifest import SHARDS, SPLITS
from data_jobs.shards.merge_task import merge_shard
from data_jobs.tokens.sentences import rule_of
from data_jobs.tokens.spill_task import spill_run
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_making import make_tokenizer
from data_jobs.work import Job, Receipt, Runner, Task, committed, failing_as, wait_for_receipt

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, all) at a stage's start and after each of its jobs."""


@dataclass
class Build:
    """One corpus in the making."""

    settings: CorpusSettings
    out: Path
    files: Sequence[InputFile]
    runner: Runner
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock of each stage, in this start."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Stage to {tasks, seconds, cpu_seconds} of its tasks, those of earlier starts too."""
    check: Callable[[], None] = lambda: None
    """Called before each stage and before the manifest; raises where another writes this folder now."""

    def run(self) -> dict[str, Any]:
        """Make the corpus, or finish it; returns the manifest."""
        with failing_as(str(self.out)):
            return self._run()

    def _run(self) -> dict[str, Any]:
        fixed = fixed_settings(self.settings)
        self._work = state.begin(self.out, fixed)
        self._rejects = RejectSample()
        splits = cut_splits(self.files, self.settings.sources, self.settings.split_bytes)
        cleaned = self._clean(splits)
        try:
            check_readable(self.settings, splits, cleaned, self._rejects)
            self._take(splits, cleaned)
            self._remove_repeats()
            self._drop()
            check_left(self.settings, self._stages)
            self._train(self._runs)
        except UserError:
            # The way out is another setting, and scratch of these ones would then be in the way.
            with contextlib.suppress(
                OSError
            ):  # a task may still be writing: what stays goes at the next start
                state.clear(self.out)
            raise
        spilled = self._spill(self._runs)
        merge_jobs, merged = self._merge(self._runs, spilled)
        names = {source.name: number for number, source in enumerate(self.settings.sources)}
        self._stages["encode"] = [(number, receipt) for (number, _), receipt in zip(self._runs, spilled)]
        self._stages["deduplicate"] = [(names[job["source"]], done) for job, done in zip(merge_jobs, merged)]
        done = Finished(
            self.settings,
            self.files,
            list(zip(splits, cleaned)),
            self._stages,
            list(zip(merge_jobs, merged)),
            self._tokenizer,
            self._rejects,
            self._near_report,
        )
        self.check()
        manifest = write_corpus(self.out, fixed, done, {"seconds": self.seconds, "costs": self.costs})
        state.clear_scratch(self.out)
        return manifest

    def _clean(self, splits: Sequence[Split]) -> list[Receipt]:
        given = self.settings.model_dump(mode="json")
        jobs: list[Job] = [
            {
                "stage": "clean",
                "settings": given,
                "split": split.to_json(),
                "filter": not self.settings.repeats.wanted,  # else on what the rewrite leaves
                "folder": str(self._work / "runs"),
                "receipt": str(self._work / "clean" / f"{_key(split.to_json())}.json"),
            }
            for split in splits
        ]
        return self._stage("clean", clean_split, jobs)

    def _take(self, splits: Sequence[Split], cleaned: Sequence[Receipt]) -> None:
        """The runs of the cleaned splits; runs of equal content stand there once for each."""
        by_source = [(split.source, done) for split, done in zip(splits, cleaned)]
        self._runs = [(number, run) for number, done in by_source for run in done["runs"]]
        self._stages: StageReceipts = {"read": by_source, "clean": by_source}
        if not self.settings.repeats.wanted:
            self._stages["filter"] = by_source
        self._near_report: dict[str, Any] | None = None

    def _remove_repeats(self) -> None:
        if self.settings.repeats.wanted:
            self._runs, receipts = remove_repeats(self._stage, self._work, self.settings, self._runs)
            self._stages["repeats"] = self._stages["filter"] = receipts

    def _drop(self) -> None:
        """Drop bitmaps for the runs; whoever reads a run from here on sees what is left of it."""
        sources, runs = self.settings.sources, self._runs
        if self.settings.decontaminate.files and runs:
            runs, receipts = drop_contaminated(
                self._stage, self._work, sources, self.settings.decontaminate, runs
            )
            self._stages["decontaminate"] = [(number, done) for (number, _), done in zip(runs, receipts)]
        if self.settings.dedup == "minhash" and runs:
            runs, receipts, self._near_report = drop_near_duplicates(
                self._stage, self._work, sources, self.settings.minhash, runs
            )
            self._stages["near_duplicates"] = [(number, done) for (number, _), done in zip(runs, receipts)]
        self._runs = runs

    def _train(self, runs: Sequence[tuple[int, Receipt]]) -> None:
        folder = self._work / f"tokenizer-{_key(sorted(run['name'] for _, run in runs))}"
        title = "train tokenizer" if self.settings.tokenizer.path is None else "take tokenizer"
        with self._timed(title):
            if not (folder / "done").exists():
                self.progress(title, 0, 1)
                self._new_tokenizer(runs).save(folder)
                fault_point("prepare.before_train")
                write_bytes(folder / "done", b"")
                fault_point("prepare.after_train")
                self.progress(title, 1, 1)
            self._tokenizer: Tokenizer = load_tokenizer(folder)
            self._tokenizer_folder = str(folder)

    def _new_tokenizer(self, runs: Sequence[tuple[int, Receipt]]) -> Tokenizer:
        return make_tokenizer(self.settings, runs)

    def _spill(self, runs: Sequence[tuple[int, Receipt]]) -> list[Receipt]:
        """The receipt of each run; runs of equal content are one job."""
        # What a bitmap leaves out of a run hangs on all runs.
        names = sorted(run["name"] for _, run in runs) if any("drop" in run for _, run in runs) else []
        folder = self._work / f"spills-{_key([self._tokenizer.fingerprint, names])}"
        jobs: dict[str, Job] = {}
        for number, run in runs:
            source = self.settings.sources[number]
            jobs[run["name"]] = {
                "stage": "spill",
                "run": run["file"],
                "drop": run.get("drop"),
                "name": run["name"],
                "source": source.name,
                "rule": rule_of(source.format),
                "tokenizer": self._tokenizer_folder,
                "folder": str(folder),
                "receipt": str(folder / f"{run['name']}.json"),
            }
        done = dict(zip(jobs, self._stage("encode", spill_run, list(jobs.values()))))
        return [done[run["name"]] for _, run in runs]

    def _merge(
        self, runs: Sequence[tuple[int, Receipt]], spilled: Sequence[Receipt]
    ) -> tuple[list[Job], list[Receipt]]:
        """One job a shard. Their number is a function of the documents alone: duplicates are counted in."""
        names = sorted((number, run["name"]) for number, run in runs)
        folder = self._work / f"merge-{_key([names, self._tokenizer.fingerprint])}"
        # Shards of other input have the same names: their receipts would speak of the files written now.
        for other in self._work.glob("merge-*"):
            if other != folder:
                delete_tree(other)
        by_source = [
            [spill for (n, _), spill in zip(runs, spilled) if n == number]
            for number in range(len(self.settings.sources))
        ]
        gathered = self._gather([[spill["file"] for spill in own] for own in by_source], folder)
        jobs: list[Job] = []
        for source, own, files in zip(self.settings.sources, by_source, gathered):
            spills = folder / f"{source.name}.spills"
            write_json(spills, files)
            for split in SPLITS:
                size = sum(spill["token_bytes"][split] for spill in own)
                count = -(-size // self.settings.shard_bytes)  # none where the split has no document
                for g in range(count):
                    name = f"{source.name}-{split}-{g:05d}-of-{count:05d}.arrow"
                    jobs.append(
                        {
                            "stage": "merge",
                            "source": source.name,
                            "split": split,
                            "number": g,
                            "count": count,
                            "spills": str(spills),
                            "file": name,
                            "folder": str(self.out / SHARDS),
                            "metadata": metadata_of(source),
                            "dedup": "none" if self.settings.dedup == "none" else "exact",
                            "tokenizer": self._tokenizer_folder,
                            "receipt": str(folder / f"{name}.json"),
                        }
                    )
        return jobs, self._stage("merge", merge_shard, jobs)

    def _gather(self, files: Sequence[Sequence[str]], folder: Path) -> list[Sequence[str]]:
        """The spilled runs of each source; where they are many, fewer that hold the same."""
        groups = [groups_of(own) for own in files]
        jobs: list[Job] = [
            {
                "stage": "gather",
                "runs": group,
                "file": f"{number}-{n:05d}.tokens.arrow",
                "folder": str(folder),
                "receipt": str(folder / f"{number}-{n:05d}.tokens.json"),
            }
            for number, own in enumerate(groups)
            for n, group in enumerate(own)
        ]
        done = iter(self._stage("gather", gather_runs, jobs) if jobs else [])
        return [[next(done)["file"] for _ in own] or files[n] for n, own in enumerate(groups)]

    def _stage(self, title: str, task: Task, jobs: Sequence[Job]) -> list[Receipt]:
        """The receipts of all jobs in their order; only jobs without one are run."""
        with self._timed(title):
            missing = [{**job, "job": n} for n, job in enumerate(jobs) if committed(job) is None]
            done = len(jobs) - len(missing)
            self.check()
            self.progress(title, done, len(jobs))
            if missing:
                for _ in self.runner(task, missing):
                    done += 1
                    self.progress(title, done, len(jobs))
            receipts = [wait_for_receipt(job) for job in jobs]
        spent = self.costs.setdefault(title, {"tasks": 0, "seconds": 0.0, "cpu_seconds": 0.0})
        for receipt in receipts:
            # A hundred a reason and receipt: of a hundred thousand splits they would not fit into memory.
            self._rejects.add_all(receipt.pop("rejects"))
            spent["tasks"] += 1
            for name, value in receipt["cost"].items():
                spent[name] = round(spent[name] + value, 4)
        return receipts

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        spent = self.seconds.get(title, 0.0) + time.monotonic() - started  # a stage of several rounds
        self.seconds[title] = round(spent, 3)


def _key(value: Any) -> str:
    return sha256(to_json(value))[:32]
