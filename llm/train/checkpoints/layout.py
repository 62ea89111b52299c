"""Names and records of a checkpoint folder: receipts, the fragment table, the index."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster import places
from cluster.errors import RunError
from cluster.sealed import unseal
from llm.train.best import Best
from llm.train.checkpoints.chunks import ChunkedFile
from llm.train.engine import STATES
from llm.train.guard import GuardState

FORMAT = "manta-checkpoint-1"
INDEX, FRAGMENTS = "index.json", "fragments.arrow"
FOLDER = re.compile(r"step-(\d{9})-([0-9a-f]{12})")

ADAM_STATES = STATES[:3]  # of every tensor of checkpoints from before there were other optimizers
Columns = dict[str, npt.NDArray[Any]]
SCHEMA = pa.schema(
    [
        ("tensor", pa.uint32()),
        ("state", pa.uint8()),
        ("start", pa.uint64()),
        ("length", pa.uint64()),
        ("file", pa.uint32()),
        ("byte", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class RunState:
    """What a run is beside its tensors; small, typed, JSON."""

    step: int
    next_number: int
    tokens: int  # that went through the model, padding included
    wandb_id: str
    counters: dict[str, int] = field(default_factory=dict)
    guard: GuardState = field(default_factory=GuardState)
    loss_scale: float = 1.0  # of the next step
    loss_scale_steps: int = 0  # since it last changed
    best: Best = field(default_factory=Best)  # validation

    @property
    def updates(self) -> int:
        """Steps that changed the weights: what Adam's bias correction counts."""
        return self.step - self.guard.skipped

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunState:
        """TypeError where a field is missing or unknown. A run from before the guard has skipped nothing."""
        parts = {
            "guard": GuardState.from_json(value.get("guard", {})),
            "best": Best(**value.get("best", {})),
        }
        return cls(**(value | parts))


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the model; `aliases` are other names of the same memory (tied weights)."""

    name: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    states: tuple[str, ...] = ADAM_STATES
    """What is saved of it."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TensorInfo:
        """KeyError or TypeError where it is none."""
        states = tuple(value.get("states", ADAM_STATES))
        return cls(value["name"], tuple(value["shape"]), tuple(value["aliases"]), states)


@dataclass(frozen=True)
class Receipt:
    """What one worker wrote: files with digests, and where each fragment stands in them."""

    attempt: str
    rank: int
    world: int
    files: tuple[ChunkedFile, ...]
    fragments: tuple[tuple[int, int, int, int, int, int], ...]  # columns of SCHEMA; file counts from 0 here

    def to_bytes(self) -> bytes:
        return places.to_json(
            {
                "attempt": self.attempt,
                "rank": self.rank,
                "world": self.world,
                "files": [{"name": f.name, "bytes": f.size, "chunks": f.chunks} for f in self.files],
                "fragments": self.fragments,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """RunError where the worker says that it could not write its part."""
        value = json.loads(data)
        if "failed" in value:
            raise RunError(f"another worker could not write its part: {value['failed']}")
        files = tuple(ChunkedFile(f["name"], f["bytes"], tuple(f["chunks"])) for f in value["files"])
        for file in files:
            if Path(file.name).name != file.name:
                raise ValueError(f"file name '{file.name}' leaves its folder")
        fragments = tuple(tuple(row) for row in value["fragments"])
        return cls(value["attempt"], value["rank"], value["world"], files, fragments)


def folder_name(step: int, attempt: str) -> str:
    return f"step-{step:09d}-{attempt}"


def receipt_name(rank: int) -> str:
    return f"receipt-{rank}.json"


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fragment_columns(receipts: Sequence[Receipt]) -> Columns:
    """All workers' fragments, sorted by (tensor, state, start); files numbered over the workers in order."""
    rows, first_file = [], 0
    for receipt in receipts:
        rows += [(t, s, start, n, first_file + f, byte) for t, s, start, n, f, byte in receipt.fragments]
        first_file += len(receipt.files)
    rows.sort()
    values = np.array(rows, dtype=np.uint64).reshape(-1, len(SCHEMA.names))
    return {name: values[:, i] for i, name in enumerate(SCHEMA.names)}


def check_cover(columns: Columns, tensors: Sequence[TensorInfo]) -> None:
    """Every element of every tensor's states stands in exactly one fragment, else RunError."""
    tensor, state = columns["tensor"], columns["state"]
    start, length = columns["start"], columns["length"]
    key = tensor * np.uint64(len(STATES)) + state
    for number, info in enumerate(tensors):
        for s, state_name in enumerate(STATES):
            low, high = np.searchsorted(key, [number * len(STATES) + s, number * len(STATES) + s + 1])
            if state_name not in info.states and low == high:
                continue
            ends = np.concatenate([np.zeros(1, np.uint64), start[low:high] + length[low:high]])
            if (start[low:high] != ends[:-1]).any() or int(ends[-1]) != int(np.prod(info.shape)):
                raise RunError(
                    f"fragments of {info.name}, {state_name}, have a gap or an overlap: not committed"
                )


def fragments_to_bytes(columns: Columns) -> bytes:
    """The table as an Arrow IPC file of one record batch."""
    arrays = [pa.array(columns[f.name].astype(f.type.to_pandas_dtype())) for f in SCHEMA]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    return sink.getvalue().to_pybytes()


def fragments_from_bytes(data: bytes) -> Columns:
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return {name: table[name].to_numpy().astype(np.uint64) for name in SCHEMA.names}


def index_from_bytes(data: bytes) -> dict[str, Any]:
    """The index. Raises ValueError where the text is not one or was changed."""
    index = unseal(data)
    if index.get("format") != FORMAT:
        raise ValueError(f"not a checkpoint of format {FORMAT}")
    return index
