"""The flow of near duplicates: signatures, buckets, components, choice, verdicts.

    runs ─ signature_task ─> bands ─ bucket_task ─> forests ─ component_task (a tree) ─> forest
         └> ranks ────────────────────────────────────────────────────────────┐            │
    runs + drop bitmaps <─ verdict_task <─ chosen <─ choose_task <────────────┴────────────┘

Every arrow is a file and every task has a receipt, which holds counts alone. What is dropped is a function
of the documents: bands are of texts, components of pairs, choices of contents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.places import to_json, write_json
from data_jobs.dedup.bucket_task import bucket_range
from data_jobs.dedup.choose_task import choose_range
from data_jobs.dedup.component_task import FAN_IN, join_forests
from data_jobs.dedup.dedup_settings import MinhashSettings
from data_jobs.dedup.near_report import near_report
from data_jobs.dedup.signature_task import sign_run
from data_jobs.dedup.verdict_task import judge_run
from data_jobs.hashes import sha256
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.work import Job, Receipt, Task

Stage = Callable[[str, Task, Sequence[Job]], list[Receipt]]
"""Runs the jobs of a stage that have no receipt yet; all receipts in the order of the jobs."""
Run = dict[str, Any]

RANGE_BANDS = 1 << 20
"""Band hashes of one task: with a signature each they are its memory."""
_CHOICE = 1 << 20
"""Documents with a near duplicate that one task chooses among."""


def drop_near_duplicates(
    stage: Stage,
    work: Path,
    sources: Sequence[SourceSettings],
    wanted: MinhashSettings,
    runs: Sequence[tuple[int, Run]],
) -> tuple[list[tuple[int, Run]], list[Receipt], dict[str, Any]]:
    """(runs with their drop bitmaps, the verdict's receipt of each, what the report says)."""
    distinct = {run["name"]: (number, run) for number, run in runs}
    names = sorted(distinct)
    flow = _Flow(stage, work, sources, wanted, [(name, *distinct[name]) for name in names])
    buckets, chosen = flow.find()
    verdicts = dict(zip(names, flow.judge([done["chosen"] for done in chosen])))
    receipts = [verdicts[run["name"]] for _, run in runs]
    told = [
        (n, {**run, "drop": done["drop"], "train_bytes": done["train_bytes"]})
        for (n, run), done in zip(runs, receipts)
    ]
    by_source = [(sources[n].name, done) for (n, _), done in zip(runs, receipts)]
    return told, receipts, near_report(wanted, by_source, buckets, chosen)


class _Flow:
    def __init__(
        self,
        stage: Stage,
        work: Path,
        sources: Sequence[SourceSettings],
        wanted: MinhashSettings,
        runs: Sequence[tuple[str, int, Run]],
    ) -> None:
        self._stage, self._sources, self._wanted, self._runs = stage, sources, wanted, runs
        self._minhash = wanted.model_dump(mode="json")
        documents = sum(run["documents"] for *_, run in runs)
        self._ranges = wanted.ranges or max(1, -(-documents * wanted.bands // RANGE_BANDS))
        key = sha256(to_json([[name for name, *_ in runs], self._ranges]))[:32]
        self._signatures = work / "signatures"
        self._folder = work / f"near-{key}"
        self._signed = str(self._folder / "signed.json")

    def find(self) -> tuple[list[Receipt], list[Receipt]]:
        """Receipts of the buckets, and of the choice."""
        signed = self._stage("signatures", sign_run, [self._sign_job(*row) for row in self._runs])
        write_json(
            self._signed,
            [
                {
                    "name": name,
                    "run": run["file"],
                    "source": number,
                    "source_name": self._sources[number].name,
                    **{what: done[what] for what in ("bands", "signatures", "ranks")},
                }
                for (name, number, run), done in zip(self._runs, signed)
            ],
        )
        buckets = self._stage(
            "near duplicates", bucket_range, [self._bucket_job(p) for p in range(self._ranges)]
        )
        forest, edges = self._join([(done["forest"], done["edges"]) for done in buckets])
        count = self._wanted.ranges or max(1, -(-2 * edges // _CHOICE))
        jobs = [self._choose_job(forest, p, count) for p in range(count)]
        return buckets, self._stage("choose", choose_range, jobs)

    def judge(self, chosen: list[str]) -> list[Receipt]:
        """The verdict on each run."""
        jobs: list[Job] = [
            {
                "stage": "verdict",
                "signed": self._signed,
                "number": number,
                "chosen": chosen,
                "drop": run.get("drop"),
                "folder": str(self._folder / "drops"),
                "receipt": str(self._folder / "drops" / f"{name}.json"),
            }
            for number, (name, _, run) in enumerate(self._runs)
        ]
        return self._stage("verdicts", judge_run, jobs)

    def _join(self, forests: list[tuple[str, int]]) -> tuple[str, int]:
        level = 0
        while len(forests) > 1:
            groups = [forests[at : at + FAN_IN] for at in range(0, len(forests), FAN_IN)]
            jobs: list[Job] = [
                {
                    "stage": "component",
                    "forests": [path for path, _ in group],
                    **self._file(f"component-{level}-{n:05d}-of-{len(groups):05d}"),
                }
                for n, group in enumerate(groups)
            ]
            done = self._stage("components", join_forests, jobs)
            forests = [(receipt["forest"], receipt["edges"]) for receipt in done]
            level += 1
        return forests[0]

    def _sign_job(self, name: str, number: int, run: Run) -> Job:
        return {
            "stage": "signature",
            "run": run["file"],
            "name": name,
            "documents": run["documents"],
            "source": self._sources[number].name,
            "drop": run.get("drop"),
            "minhash": self._minhash,
            "folder": str(self._signatures),
            "receipt": str(self._signatures / f"{name}.json"),
        }

    def _bucket_job(self, number: int) -> Job:
        return {
            "stage": "bucket",
            "signed": self._signed,
            "range": number,
            "ranges": self._ranges,
            "minhash": self._minhash,
            **self._file(f"bucket-{number:05d}-of-{self._ranges:05d}"),
        }

    def _choose_job(self, forest: str, number: int, count: int) -> Job:
        return {
            "stage": "choose",
            "signed": self._signed,
            "forest": forest,
            "range": number,
            "ranges": count,
            "keep": self._wanted.keep,
            **self._file(f"chosen-{number:05d}-of-{count:05d}"),
        }

    def _file(self, name: str) -> Job:
        return {
            "file": f"{name}.npy",
            "folder": str(self._folder),
            "receipt": str(self._folder / f"{name}.json"),
        }
