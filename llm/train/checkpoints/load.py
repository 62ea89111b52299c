"""Loading a checkpoint into any number of workers and any ZeRO stage: each reads what overlaps its part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from cluster import places
from cluster.errors import RunError
from cluster.places import Place, PlaceError
from llm.train.checkpoints import layout
from llm.train.checkpoints.chunks import (
    LOCAL_RUN_CHUNKS,
    RUN_CHUNKS,
    Array,
    ChunkedFile,
    ChunkReader,
    unreadable,
)
from llm.train.checkpoints.layout import Receipt, RunState, TensorInfo
from llm.train.checkpoints.save import committed_folders, step_of, tensor_table
from llm.train.engine import Engine
from llm.train.group import Group

T = TypeVar("T")

KEPT_CHUNKS = 512  # of all files together, or one of each


class CheckpointReader:
    """A committed checkpoint, opened: every file is there with its size, every record has passed its digest.

    Raises RunError that names the file and what is wrong with it; PlaceError where the storage is away.
    """

    def __init__(self, folder: Place, weights_only: bool = False) -> None:
        """`weights_only`: the optimizer's files need not be there (old checkpoints may have lost them)."""
        self.folder = folder
        try:
            self.index = layout.index_from_bytes(self._bytes(layout.INDEX))
            self.state = RunState.from_json(self.index["state"])
            self.tensors = [TensorInfo.from_json(t) for t in self.index["tensors"]]
            self._states: list[str] = self.index["states"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{folder / layout.INDEX}: {error}") from None
        receipts = [self._receipt(rank, wanted) for rank, wanted in enumerate(self.index["receipts"])]
        files = [file for receipt in receipts for file in receipt.files]
        size_of = places.size_of(folder)
        for file in files:
            if not (weights_only and file.name.startswith("optim-")):
                try:
                    size = size_of(file.name)
                except OSError as error:
                    raise unreadable(folder / file.name, error) from None
                self._check_size(file, size)
        table = self._bytes(layout.FRAGMENTS)
        if layout.digest(table) != self.index["fragments"]:
            raise RunError(f"{folder / layout.FRAGMENTS}: digest differs from the index: it was changed")
        self._columns = layout.fragments_from_bytes(table)
        self._key = self._columns["tensor"] * np.uint64(len(self._states)) + self._columns["state"]
        self._numbers = {info.name: i for i, info in enumerate(self.tensors)}
        most = RUN_CHUNKS if places.is_remote(folder) else LOCAL_RUN_CHUNKS
        run = max(1, min(most, KEPT_CHUNKS // max(1, len(files))))
        self._readers = [ChunkReader(folder, file, run) for file in files]

    def expect(self, name: str, state: str, start: int, length: int) -> None:
        """Say what will be read, before the first read: what stands side by side comes in one request."""
        for reader, byte, take in self._parts(name, state, start, length):
            reader.expect(byte, 4 * take)

    def read(self, name: str, state: str, start: int, length: int) -> Array:
        """Elements [start, start + length) of a tensor's state, flat, fp32."""
        out = np.empty(length, dtype=np.float32)
        filled = 0
        for reader, byte, take in self._parts(name, state, start, length):
            out[filled : filled + take] = np.frombuffer(reader.read(byte, 4 * take), dtype="<f4")
            filled += take
        return out

    def _parts(
        self, name: str, state: str, start: int, length: int
    ) -> Iterator[tuple[ChunkReader, int, int]]:
        """Where the elements stand: file, first byte, how many."""
        key = self._numbers[name] * len(self._states) + self._states.index(state)
        low, high = np.searchsorted(self._key, [key, key + 1])
        starts = self._columns["start"][low:high].astype(np.int64)
        row = int(np.searchsorted(starts, start, side="right")) - 1
        filled = 0
        while filled < length:
            at = low + row
            skip = start + filled - int(starts[row])
            take = min(length - filled, int(self._columns["length"][at]) - skip)
            byte = int(self._columns["byte"][at]) + 4 * skip
            yield self._readers[int(self._columns["file"][at])], byte, take
            filled += take
            row += 1

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights by name, aliases included: what `load_state_dict` takes."""
        self._expect_weights()
        found = {}
        for info in self.tensors:
            found.update(dict.fromkeys((info.name, *info.aliases), self.weight(info)))
        return found

    def weight(self, info: TensorInfo) -> torch.Tensor:
        """One whole weight."""
        return torch.from_numpy(self.read(info.name, "weight", 0, int(np.prod(info.shape)))).view(info.shape)

    def check_weights(self) -> None:
        """Read every weight against its digests, one at a time."""
        self._expect_weights()
        for info in self.tensors:
            self.weight(info)

    def _expect_weights(self) -> None:
        for info in self.tensors:
            self.expect(info.name, "weight", 0, int(np.prod(info.shape)))

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise unreadable(self.folder / name, error) from None

    def _receipt(self, rank: int, wanted: str) -> Receipt:
        data = self._bytes(layout.receipt_name(rank))
        if layout.digest(data) != wanted:
            raise RunError(
                f"{self.folder / layout.receipt_name(rank)}: digest differs from the index: it was changed"
            )
        return Receipt.from_bytes(data)

    def _check_size(self, file: ChunkedFile, size: int | None) -> None:
        if size != file.size:
            raise RunError(
                f"{self.folder / file.name}: {'missing' if size is None else f'{size} bytes'}, "
                f"written with {file.size} bytes"
            )


def load_newest(
    folder: Place,
    engine: Engine,
    group: Group,
    check: Callable[[CheckpointReader], None],
    latest_step: int | None = None,
) -> RunState | None:
    """Restore the newest good checkpoint into the engine; None where there is none at all.

    The first worker names each candidate, since listings may differ between nodes; only where all workers
    could read their part is anything applied. A damaged one is passed over with a warning. RunError where
    some exist and none is good: training never silently starts anew. PlaceError where the storage is away, so
    that no older checkpoint is taken for the newest. What `check` refuses by UserError ends the start.
    `latest_step`: those of later steps are left alone.
    """
    reasons: list[str] = []
    for candidate in _candidates(folder, group, latest_step):
        reason, away = "", None
        parts: list[tuple[torch.Tensor, Array]] = []
        reader: CheckpointReader | None = None
        try:
            reader = CheckpointReader(candidate)
            check(reader)
            held = list(engine.held())
            for f in held:
                reader.expect(f.name, f.state, f.start, f.values.numel())
            parts = [(f.values, reader.read(f.name, f.state, f.start, f.values.numel())) for f in held]
        except PlaceError as error:
            away = error
        except RunError as error:
            reason = str(error)
        _raise_together(group, candidate, away)
        if group.agree(not reason):
            assert reader is not None
            with torch.no_grad():
                for target, values in parts:
                    target.copy_(torch.from_numpy(values))
            parts.clear()  # before the engine spreads them, which takes memory of its own
            engine.restored(reader.state.updates)
            return reader.state
        reasons.append(reason or f"{candidate}: another worker could not read its part")
        print(f"warning: checkpoint passed over: {reasons[-1]}", file=sys.stderr, flush=True)
    if reasons:
        raise RunError(
            "no checkpoint of this run is good; --fresh starts anew and keeps the old folder aside:\n       "
            + "\n       ".join(reasons)
        )
    return None


def _candidates(folder: Place, group: Group, latest_step: int | None) -> Iterator[Place]:
    """The first worker's committed folders, newest first, by name on every worker.

    After the last one those that have come meanwhile.
    """
    seen: set[str] = set()
    while True:
        own, away = list[Place](), None
        try:
            if group.rank == 0:
                own = _unseen(folder, seen)
        except OSError as error:
            away = unreadable(folder, error)
        _raise_together(group, folder, away)
        if latest_step is not None:
            own = [child for child in own if step_of(child) <= latest_step]
        count = int(group.sum([float(len(own))])[0])
        if count == 0:
            return
        for number in range(count):
            step, attempt = 0.0, 0.0
            if group.rank == 0:
                match = layout.FOLDER.fullmatch(own[number].name)
                assert match is not None
                step, attempt = float(match[1]), float(int(match[2], 16))  # 48 bits: exact in fp64
            step, attempt = group.sum([step, attempt])
            yield folder / layout.folder_name(int(step), f"{int(attempt):012x}")


def _unseen(folder: Place, seen: set[str]) -> list[Place]:
    """Committed folders that were not among those listed before: a live run may have swept all of those."""
    found = [child for child in committed_folders(folder) if child.name not in seen]
    seen.update(child.name for child in found)
    return found


def _raise_together(group: Group, path: Place, error: RunError | None) -> None:
    """Raise on every worker where one has an error: the others would wait for it for ever."""
    if group.sum([float(error is not None)])[0]:
        raise error or PlaceError(str(path), "another worker could not read it; its own message says why")


def check_tensors(reader: CheckpointReader, engine: Engine) -> None:
    """RunError where a checkpoint is of another model, or lacks a state that the engine keeps."""
    there = {info.name: info for info in reader.tensors}
    for info in tensor_table(engine):
        found = there.get(info.name)
        if found is None or found.shape != info.shape:
            raise RunError(f"{reader.folder}: of another model: {info.name} is not there in this shape")
        if lacking := set(info.states) - set(found.states):
            raise RunError(f"{reader.folder}: lacks {', '.join(sorted(lacking))} of {info.name}")


def newest_good(
    folder: Place, take: Callable[[CheckpointReader], T], first: str | None = None
) -> tuple[CheckpointReader, T] | None:
    """The newest checkpoint from which `take` takes what it needs, for use without training; before it the
    one of the name `first`, if it is there.

    None where there is none at all, RunError where none is good. A damaged one is passed over with a warning;
    PlaceError where the storage is away.
    """
    reasons, seen = [], set[str]()
    while candidates := _unseen(folder, seen):
        for candidate in sorted(candidates, key=lambda found: found.name != first):  # else as they stand
            try:
                reader = CheckpointReader(candidate, weights_only=True)
                return reader, take(reader)
            except PlaceError:
                raise
            except RunError as error:
                reasons.append(str(error))
                print(f"warning: checkpoint passed over: {error}", file=sys.stderr, flush=True)
    if not reasons:
        return None
    raise RunError(f"{folder}: no good checkpoint" + "".join(f"\n       {reason}" for reason in reasons))
