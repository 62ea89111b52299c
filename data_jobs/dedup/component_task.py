"""Task of near duplicates, the third: several forests of edges to the one of all of them.

Run as a tree, sixteen into one, so that no process ever sees the documents that have no near duplicate, and
only the last one all those that have.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_jobs.dedup.bucket_task import read_forest, write_forest
from data_jobs.work import Job, keep, temporary

FAN_IN = 16


def join_forests(job: Job) -> dict[str, Any]:
    """Job: {forests, file, folder}. Receipt: {files, forest, edges}."""
    from data_jobs.dedup.graph_kernels import star_forest

    parts = [read_forest(path) for path in job["forests"]]
    roots, vertices = star_forest(
        np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    )
    with temporary(job["folder"]) as tmp:
        write_forest(tmp, roots, vertices)
        path = keep(tmp, job["file"])
    return {"files": [path], "forest": path, "edges": len(roots), "rejects": []}
