"""What a document costs as a corpus grows a hundredfold, and what processes hold meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from benchmarks.curves import plot
from benchmarks.ground import Ground
from benchmarks.made_documents import write_documents
from benchmarks.rows import Row
from cluster.errors import RunError
from cluster.recipe import ROOT
from data_jobs.shards.manifest import read_manifest

SIZES = (10_000, 100_000, 1_000_000)
GIB = 1 << 30
PICTURE = "growth.svg"
_LOOK_SECONDS = 0.1


class Cost(NamedTuple):
    """One preparation."""

    documents: int
    cpu_seconds: float
    driver_bytes: int
    """The most that the command's own process held."""
    most_bytes: int
    """The most that any one process of it held."""
    order_seconds: float
    """Of merging, wall-clock: the external sort."""
    near_duplicates: int


def rows(ground: Ground, texts: Sequence[str]) -> list[Row]:
    """CPU time a document, and memory, at each size."""
    sizes = (500, 1000) if ground.quick else SIZES
    costs = [prepare(ground, texts, size) for size in sizes]
    each = [1e6 * cost.cpu_seconds / cost.documents for cost in costs]
    figures = ", ".join(f"{c.documents:,}: {us:.0f} µs" for c, us in zip(costs, each, strict=True))
    note = f"made documents of about 600 bytes, one in ten a near duplicate; CPU time of all tasks; {figures}"
    ground.pictures[PICTURE] = plot(
        "Cost of a document as a corpus grows",
        "documents",
        "CPU time a document, µs",
        {"all stages": {c.documents: us for c, us in zip(costs, each, strict=True)}},
        log_x=True,
    )
    dropped = ", ".join(f"{c.documents:,}: {c.near_duplicates:,}" for c in costs)
    return [
        Row(
            f"CPU time a document, {sizes[-1]:,} beside {sizes[0]:,}", "µs", each[-1], each[0],
            f"{sizes[0]:,} documents", "ratio <= 1.2", note,
        ),
        Row(
            f"memory of the driver, {sizes[-1]:,} documents beside {sizes[0]:,}", "MiB",
            costs[-1].driver_bytes / 2**20, costs[0].driver_bytes / 2**20, f"{sizes[0]:,} documents",
            "ratio <= 1.2", "on a local Ray, which does the work in processes of its own",
        ),
        Row(
            "most memory of one process", "GiB", max(cost.most_bytes for cost in costs) / GIB,
            goal="ours <= 1.5", note=f"near duplicates found: {dropped}",
        ),
    ]  # fmt: skip


def prepare(ground: Ground, texts: Sequence[str], count: int) -> Cost:
    """Make documents and a corpus of them, with filters and near duplicates, on a Ray of this machine."""
    given, out = ground.fresh("made"), ground.fresh("corpus")
    size = write_documents(given, texts, count)
    ground.say(f"growth: {count:,} documents, {size / 1e6:.0f} MB")
    corpus = {
        "sources": [{"name": "made", "path": str(given)}],
        "filters": {"gopher_quality": {}, "gopher_repetition": {}},
        "dedup": "minhash",
        "tokenizer": {"vocab_size": 8000, "sample_bytes": 2_000_000},
        "val_fraction": 0.01,
    }
    recipe = ground.fresh("growth").with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump({"corpus": corpus}))
    engine = "local" if ground.quick else "ray"
    command = [
        sys.executable,
        "-m",
        "data_jobs.prepare",
        str(recipe),
        "--engine",
        engine,
        "--corpus.out",
        str(out),
    ]
    driver_bytes, most_bytes = watched(command, ground.log())
    report = json.loads((out / "report.json").read_bytes())
    dropped = read_manifest(out)["counts"]["documents"]["dropped"].get("near_duplicate", 0)
    stages = report["costs"]
    return Cost(
        count,
        sum(stage["cpu_seconds"] for stage in stages.values()),
        driver_bytes,
        most_bytes,
        report["seconds"]["merge"],
        dropped,
    )


def watched(command: Sequence[str], log: Path) -> tuple[int, int]:
    """Run it; the most private memory of its own process, and of any process below it, in bytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(log, "wb") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    own, below = [0], [0]
    ended = threading.Event()

    def look() -> None:
        root = psutil.Process(child.pid)
        while not ended.wait(_LOOK_SECONDS):
            try:
                own.append(_private_bytes(child.pid))
                below.extend(_private_bytes(process.pid) for process in root.children(recursive=True))
            except psutil.Error:
                continue

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    status = child.wait()
    ended.set()
    watcher.join()
    if status:
        last = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RunError(f"{' '.join(command)} ended with status {status}:\n{last}")
    return max(own), max(own + below)


def _private_bytes(pid: int) -> int:
    """RssAnon: what a process holds that is no mapped file."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in text.splitlines() if line.startswith("RssAnon")]
    return int(found[0].split()[1]) * 1024 if found else 0
