"""Reads an offline W&B run file back: LevelDB log blocks of protobuf records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file, as far as it was written."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", f"{path} is no W&B run file"
    at, pending = 7, b""
    while at + HEADER <= len(data):
        room = BLOCK - at % BLOCK
        if room < HEADER:
            at += room
            continue
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        kind = data[at + 6]  # 1 whole, 2 first, 3 middle, 4 last
        pending += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            pending = b""
            yield record


def history(folder: Path) -> tuple[set[str], dict[int, dict[str, Any]]]:
    """(run ids, step to its last logged values) over all offline run files below a folder."""
    ids: set[str] = set()
    rows: dict[int, dict[str, Any]] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            elif record.WhichOneof("record_type") == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                if "step" in row:
                    rows[row["step"]] = row
    return ids, rows
