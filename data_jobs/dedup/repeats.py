"""The flow of repeated text: hashes of lines and paragraphs by run, what is repeated by range, runs anew.

    runs ─ hash_run ─> hashes ─ common_lines, first_paragraphs ─> what is repeated ─ rewrite_run ─> runs

Both are looked for inside a source, in the texts as they were cleaned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cluster.places import to_json
from data_jobs.dedup.near_duplicates import Run, Stage
from data_jobs.dedup.repeat_tasks import common_lines, first_paragraphs, hash_run
from data_jobs.dedup.rewrite_task import rewrite_run
from data_jobs.hashes import sha256
from data_jobs.settings import CorpusSettings
from data_jobs.work import Job, Receipt

RANGE_BYTES = 128 << 20
"""Text of a source whose hashes one task takes, about; a line takes 24 bytes, and again to sort."""
_KINDS = {"lines": common_lines, "paragraphs": first_paragraphs}


def remove_repeats(
    stage: Stage, work: Path, settings: CorpusSettings, runs: Sequence[tuple[int, Run]]
) -> tuple[list[tuple[int, Run]], list[tuple[int, Receipt]]]:
    """(the runs of what is left, (number of the source, receipt) of each run that came in)."""
    wanted = settings.repeats
    kinds = [kind for kind in _KINDS if getattr(wanted, kind)]
    names = sorted([number, run["name"]] for number, run in runs)
    key = sha256(to_json([names, wanted.model_dump(mode="json")]))[:32]
    flow = _Flow(stage, work / "units", work / f"repeats-{key}", settings, runs)
    found = {kind: flow.find(kind) for kind in kinds}
    jobs: dict[str, Job] = {
        run["name"]: {
            "stage": "rewrite",
            "settings": settings.model_dump(mode="json"),
            "source": number,
            "run": run["file"],
            "lines": found.get("lines", {}).get(number, []),
            "paragraphs": found.get("paragraphs", {}).get(number, []),
            "units": {kind: flow.units[kind][run["name"]] for kind in kinds},
            "folder": str(work / "rewritten"),
            "receipt": str(flow.folder / f"{run['name']}.json"),
        }
        for number, run in runs
    }
    done = dict(zip(jobs, stage("rewrite", rewrite_run, list(jobs.values()))))
    receipts = [(number, done[run["name"]]) for number, run in runs]
    return [(number, run) for number, receipt in receipts for run in receipt["runs"]], receipts


class _Flow:
    def __init__(
        self,
        stage: Stage,
        units: Path,
        folder: Path,
        settings: CorpusSettings,
        runs: Sequence[tuple[int, Run]],
    ) -> None:
        self._stage, self._folder_of_units, self.folder, self._settings, self._runs = (
            stage,
            units,
            folder,
            settings,
            runs,
        )
        self.units: dict[str, dict[str, str]] = {}
        """Kind to name of a run to the hashes of its units."""

    def find(self, kind: str) -> dict[int, list[str]]:
        """Number of the source to the files of what is repeated in it, in the order of hashes."""
        wanted = self._settings.repeats
        names: dict[str, Job] = {
            run["name"]: {
                "stage": "units",
                "run": run["file"],
                "name": run["name"],
                "kind": kind,
                "least_words": wanted.line_words if kind == "lines" else wanted.paragraph_words,
                "folder": str(self._folder_of_units),
                "receipt": str(self._folder_of_units / f"{run['name']}.{kind}.json"),
            }
            for _, run in self._runs
        }
        hashed = self._stage(f"{kind} of runs", hash_run, list(names.values()))
        self.units[kind] = {name: done["units"] for name, done in zip(names, hashed)}
        jobs: list[Job] = []
        for number, source in enumerate(self._settings.sources):
            own = [run for n, run in self._runs if n == number]
            units = [self.units[kind][name] for name in sorted({run["name"] for run in own})]
            documents = sum(run["documents"] for run in own)
            ranges = wanted.ranges or max(1, -(-sum(run["bytes"] for run in own) // RANGE_BYTES))
            for at in range(ranges if own else 0):
                name = f"{kind}-{source.name}-{at:05d}-of-{ranges:05d}"
                jobs.append(
                    {
                        "stage": "repeat",
                        "source": number,
                        "units": units,
                        "range": at,
                        "ranges": ranges,
                        "least": max(wanted.min_documents, math.ceil(wanted.min_fraction * documents)),
                        "file": f"{name}.npy",
                        "folder": str(self.folder),
                        "receipt": str(self.folder / f"{name}.json"),
                    }
                )
        done = self._stage(f"repeated {kind}", _KINDS[kind], jobs)
        found: dict[int, list[str]] = {}
        for job, receipt in zip(jobs, done):
            found.setdefault(job["source"], []).append(receipt["found"])
        return found
