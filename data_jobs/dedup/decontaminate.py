"""The flow of decontamination: evaluation files to a set of n-grams, runs to drop bitmaps."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.places import to_json
from data_jobs.dedup.contamination_task import flag_run
from data_jobs.dedup.dedup_settings import DecontaminateSettings
from data_jobs.dedup.evaluation_task import collect_grams, digest_of
from data_jobs.dedup.near_duplicates import Run, Stage
from data_jobs.hashes import sha256
from data_jobs.reading.inputs import absolute
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.work import Job, Receipt


def drop_contaminated(
    stage: Stage,
    work: Path,
    sources: Sequence[SourceSettings],
    wanted: DecontaminateSettings,
    runs: Sequence[tuple[int, Run]],
) -> tuple[list[tuple[int, Run]], list[Receipt]]:
    """(runs with their drop bitmaps, the receipt of each)."""
    files = [absolute(path) for path in wanted.files]
    folder = work / f"evaluation-{sha256(to_json([digest_of(files), files, wanted.ngram]))[:32]}"
    set_job: Job = {
        "stage": "evaluation",
        "files": files,
        "ngram": wanted.ngram,
        "file": "grams.npy",
        "folder": str(folder),
        "receipt": str(folder / "grams.json"),
    }
    grams = stage("evaluation texts", collect_grams, [set_job])[0]["grams"]
    jobs: dict[str, Job] = {
        run["name"]: {
            "stage": "contamination",
            "run": run["file"],
            "name": run["name"],
            "source": sources[number].name,
            "grams": grams,
            "evaluations": [os.path.basename(path) for path in files],
            "ngram": wanted.ngram,
            "min_matches": wanted.min_matches,
            "folder": str(folder),
            "receipt": str(folder / f"{run['name']}.json"),
        }
        for number, run in runs
    }
    done = dict(zip(jobs, stage("decontaminate", flag_run, list(jobs.values()))))
    receipts = [done[run["name"]] for _, run in runs]
    flagged: list[tuple[int, dict[str, Any]]] = [
        (number, {**run, "drop": receipt["drop"], "train_bytes": receipt["train_bytes"]})
        for (number, run), receipt in zip(runs, receipts)
    ]
    return flagged, receipts
