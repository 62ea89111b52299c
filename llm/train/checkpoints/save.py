"""Saving a checkpoint: copy to host memory, then write and commit in the background."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster import places
from cluster.errors import RunError
from cluster.fault_points import fault_point
from cluster.lease import Superseded
from cluster.places import ObjectPath, Place
from cluster.sealed import seal
from llm.train.checkpoints import layout
from llm.train.checkpoints.chunks import Array, ChunkedFile, write_tensors
from llm.train.checkpoints.layout import Receipt, RunState, TensorInfo
from llm.train.checkpoints.retention import Beside, Keep
from llm.train.engine import STATES, Engine, Fragment

RECEIPT_SECONDS = 600.0  # how long the first worker waits for the others' files
SETTLE_SECONDS = 60.0
BEAT_SECONDS = 5.0
FAILURES_BEFORE_STOP = 3


class CheckpointFailed(RunError):
    """A checkpoint could not be written. Another try, from the one before, may succeed."""


def tensor_table(engine: Engine) -> list[TensorInfo]:
    """The model's tensors in name order; a tied one once, with its other names."""
    model = engine.objective.model
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in model.named_parameters()}
    table = []
    for group in names.values():
        name = next(n for n in group if n in shapes)
        aliases = tuple(sorted(set(group) - {name}))
        table.append(TensorInfo(name, shapes[name], aliases, engine.states[name]))
    return sorted(table, key=lambda info: info.name)


def owned(held: Sequence[Fragment], tensors: Sequence[TensorInfo], rank: int, world: int) -> list[Fragment]:
    """This worker's share of what all hold alike: elements [rank*E div W, (rank+1)*E div W) of all E."""
    sizes = [int(torch.Size(info.shape).numel()) for info in tensors]
    first = {info.name: sum(sizes[:i]) for i, info in enumerate(tensors)}
    low, high = rank * sum(sizes) // world, (rank + 1) * sum(sizes) // world
    share = []
    for fragment in held:
        at = first[fragment.name] + fragment.start
        start, stop = max(at, low), min(at + fragment.values.numel(), high)
        if start < stop:
            values = fragment.values[start - at : stop - at]
            share.append(Fragment(fragment.name, fragment.state, fragment.start + start - at, values))
    return share


class CheckpointSaver:
    """Writes this worker's part of each checkpoint; on the first worker also commits it and sweeps old ones.

    `save` returns as soon as the state is copied; one save is in flight at a time, a second waits for it.
    """

    def __init__(
        self,
        folder: Place,
        engine: Engine,
        rank: int,
        world: int,
        attempt: str,
        keep: Keep,
        record: dict[str, Any],
        check_writer: Callable[[], None] = lambda: None,
        beat: Callable[[], None] = lambda: None,
        beside: Callable[[], Beside] = Beside,
    ) -> None:
        """`check_writer` raises Superseded where another start of the command writes this run by now.

        `beat` is called now and then while a save is waited for, for as long as one may take. `beside` is
        asked before each sweep.
        """
        self.folder, self.engine, self.rank, self.world = folder, engine, rank, world
        self.attempt, self.keep, self.record = attempt, keep, record
        self.check_writer, self.beat, self.beside = check_writer, beat, beside
        self.tensors = tensor_table(engine)
        self.committed_step = -1
        self.stall_seconds = 0.0
        self._thread: threading.Thread | None = None
        self._failures: list[str] = []
        self._superseded: Superseded | None = None
        self._val_losses: dict[str, float | None] = {}

    def save(self, state: RunState, val_loss: float | None = None, score: float | None = None) -> None:
        """Copy the state at this moment and write it in the background.

        Of a validation at this very step `val_loss`, and `score`, what `Keep.best` compares: the lowest is
        best (default: the loss).
        """
        self.wait()
        val_loss, score = (x if x is not None and math.isfinite(x) else None for x in (val_loss, score))
        start = time.perf_counter()
        held = self.engine.held()
        alone = self.engine.partitioned or self.world == 1
        parts = held if alone else owned(held, self.tensors, self.rank, self.world)
        copies = [(f.name, f.state, f.start, f.values.to("cpu", copy=True).numpy()) for f in parts]
        self.stall_seconds += time.perf_counter() - start
        what = (copies, state, val_loss, score)
        self._thread = threading.Thread(target=self._write, args=what, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the save in flight. RunError after three failures in a row, or where another writes."""
        if self._thread is not None:
            start = time.perf_counter()
            self._join(self._thread)
            self._thread = None
            self.stall_seconds += time.perf_counter() - start
        if self._superseded is not None:
            raise self._superseded
        if len(self._failures) >= FAILURES_BEFORE_STOP:
            raise RunError(f"{FAILURES_BEFORE_STOP} checkpoints in a row failed: {'; '.join(self._failures)}")

    def _join(self, thread: threading.Thread) -> None:
        patience = time.monotonic() + 2 * RECEIPT_SECONDS
        while thread.is_alive():
            thread.join(BEAT_SECONDS)
            if time.monotonic() < patience:
                self.beat()

    def go_back(self, step: int, attempt: str, skips: Sequence[tuple[int, int]]) -> None:
        """Training goes on from an earlier step: checkpoints of later ones are removed, their index first.

        `attempt` must be new: names that others were told of (Ray keeps a list) do not come to mean another.
        """
        self.attempt, self.record = attempt, self.record | {"skips": skips}
        self.committed_step = min(self.committed_step, step)
        if self.rank == 0:
            self.check_writer()
            for later in committed_folders(self.folder):
                if step_of(later) > step:
                    (later / layout.INDEX).unlink(missing_ok=True)
                    places.delete_tree(later)

    def settle(self) -> None:
        """Let the save in flight end, whatever comes of it: for a run that is about to fail."""
        if self._thread is not None:
            self._thread.join(SETTLE_SECONDS)

    def finish(self) -> None:
        """Wait for the last save; CheckpointFailed where it was not committed."""
        self.wait()
        if self._failures:
            raise CheckpointFailed(f"the last checkpoint failed: {self._failures[-1]}")

    def _write(
        self,
        copies: list[tuple[str, str, int, Array]],
        state: RunState,
        val_loss: float | None,
        score: float | None,
    ) -> None:
        folder = self.folder / layout.folder_name(state.step, self.attempt)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_finite(copies)
            receipt = self._write_files(folder, copies, state.step)
            fault_point("checkpoint.before_receipt", step=state.step, rank=self.rank)
            places.write_bytes(folder / layout.receipt_name(self.rank), receipt.to_bytes())
            if self.rank == 0:
                self._commit(folder, state, val_loss, score)
            self._failures.clear()
        except Superseded as error:
            self._superseded = error
        except Exception as error:  # whatever it is, `finish` must know that there is no checkpoint
            why = str(error)
            if isinstance(error, OSError) and isinstance(self.folder, Path) and self.folder.exists():
                why += f" ({shutil.disk_usage(self.folder).free / 1e6:,.0f} MB free there)"
            self._failures.append(f"{folder}: {why}")
            self._withdraw(folder, why)
            print(
                f"warning: checkpoint {folder} failed, training goes on: {why}", file=sys.stderr, flush=True
            )
        else:
            if self.rank == 0:
                self._sweep(folder)

    def _withdraw(self, folder: Place, why: str) -> None:
        """Free what this worker has written (the disk may be full), and tell the first that no more comes."""
        with contextlib.suppress(OSError):
            if self.rank == 0:
                places.delete_tree(folder)
                return
            for file in folder.glob(f"*-{self.rank}-of-{self.world}.safetensors*"):
                file.unlink(missing_ok=True)
            places.write_json(folder / layout.receipt_name(self.rank), {"failed": why}, new_folder=False)

    def _write_files(self, folder: Place, copies: list[tuple[str, str, int, Array]], step: int) -> Receipt:
        """weights first (evaluate, generate and export read it alone), then the optimizer's states."""
        number = {info.name: i for i, info in enumerate(self.tensors)}
        files: list[ChunkedFile] = []
        fragments: list[tuple[int, int, int, int, int, int]] = []
        for kind, wanted in (("weights", STATES[:1]), ("optim", STATES[1:])):
            rows = sorted(
                (
                    (number[n], start, STATES.index(s), n, values)
                    for n, s, start, values in copies
                    if s in wanted
                ),
                key=lambda row: row[:3],
            )
            keys = [f"{name}.{STATES[s]}.{start}" for _, start, s, name, _ in rows]
            name = f"{kind}-{self.rank}-of-{self.world}.safetensors"
            file, starts = write_tensors(
                folder, name, [(k, row[4]) for k, row in zip(keys, rows, strict=True)]
            )
            fault_point(f"checkpoint.after_{kind}", step=step, rank=self.rank)
            fragments += [
                (tensor, s, start, values.size, len(files), byte)
                for (tensor, start, s, _, values), byte in zip(rows, starts, strict=True)
            ]
            files.append(file)
        return Receipt(self.attempt, self.rank, self.world, tuple(files), tuple(fragments))

    def _commit(self, folder: Place, state: RunState, val_loss: float | None, score: float | None) -> None:
        raw = [_await_receipt(folder / layout.receipt_name(r)) for r in range(self.world)]
        receipts = [Receipt.from_bytes(data) for data in raw]
        size_of = places.size_of(folder)
        for receipt in receipts:
            if (receipt.attempt, receipt.world) != (self.attempt, self.world):
                raise RunError(f"{folder}: receipt {receipt.rank} is of another attempt, {receipt.attempt}")
            for file in receipt.files:
                if size_of(file.name) != file.size:
                    raise RunError(f"{folder / file.name}: not the {file.size} bytes of its receipt")
        columns = layout.fragment_columns(receipts)
        layout.check_cover(columns, self.tensors)
        table = layout.fragments_to_bytes(columns)
        places.write_bytes(folder / layout.FRAGMENTS, table)
        index = self.record | {
            "format": layout.FORMAT,
            "attempt": self.attempt,
            "step": state.step,
            "n": state.next_number,
            "state": asdict(state),
            "val_loss": val_loss,
            **({} if score is None or score == val_loss else {"score": score}),
            "world": self.world,
            "tensors": [asdict(info) for info in self.tensors],
            "states": list(STATES),
            "receipts": [layout.digest(data) for data in raw],
            "fragments": layout.digest(table),
        }
        fault_point("checkpoint.before_index", step=state.step)
        self.check_writer()
        # Whoever takes the run over removes folders without an index. Stopped here meanwhile, and then
        # awake again, this write finds no folder.
        places.write_bytes(folder / layout.INDEX, seal(index), new_folder=False)
        if isinstance(self.folder, ObjectPath):
            self._check_again(folder / layout.INDEX)
        else:
            places.sync_folder(self.folder)
        fault_point("checkpoint.after_index", step=state.step)
        self.committed_step = state.step

    def _sweep(self, newest: Place) -> None:
        """Remove committed checkpoints that are no longer kept, their index first; a warning where it fails.

        Where another start writes the run by now, or has swept `newest`, nothing is ours to remove.
        """
        try:
            self.check_writer()
            sweep(newest, self.keep, self.beside(), self._val_loss)
        except Superseded as error:
            self._superseded = error
        except Exception as error:  # the checkpoint itself is there
            print(f"warning: {self.folder}: old checkpoints stay: {error}", file=sys.stderr, flush=True)

    def _val_loss(self, folder: Place) -> float | None:
        if folder.name not in self._val_losses:
            self._val_losses[folder.name] = val_loss_of(folder)
        return self._val_losses[folder.name]

    def _check_again(self, index: Place) -> None:
        """Without folders, the index is there even if another has taken the run over: then take it back."""
        try:
            self.check_writer()
        except Superseded:
            index.unlink(missing_ok=True)
            raise


def sweep(
    newest: Place, keep: Keep, beside: Beside, val_loss: Callable[[Place], float | None] | None = None
) -> None:
    """Remove what is not kept of a run's committed checkpoints, of which `newest` was the last to be made.

    `val_loss`: of a checkpoint at its commit (default: by its index).
    """
    val_loss = val_loss or val_loss_of
    found = committed_folders(newest.parent)
    if newest not in found:
        return
    folders = [newest, *(other for other in found if other != newest)]
    steps = [step_of(folder) for folder in folders]
    losses = [beside.losses.get(f.name, val_loss(f)) if keep.best else None for f in folders]
    waiting = [i for i, f in enumerate(folders) if beside.needs(f.name, steps[i]) and val_loss(f) is None]
    for i in keep.superfluous(steps, losses, waiting):
        (folders[i] / layout.INDEX).unlink(missing_ok=True)
        places.delete_tree(folders[i])


def sweep_torn(folder: Place) -> None:
    """Remove what dead attempts left uncommitted. Only the run's one writer may call it, before it writes."""
    for child in folder.glob("step-*") if folder.is_dir() else ():
        if layout.FOLDER.fullmatch(child.name) and not (child / layout.INDEX).exists():
            places.delete_tree(child)


def committed_folders(folder: Place) -> list[Place]:
    """Folders with an index, newest first (by step, then by the time of the commit)."""
    found = []
    for child in folder.glob("step-*") if folder.is_dir() else ():
        match = layout.FOLDER.fullmatch(child.name)
        index = child / layout.INDEX
        with contextlib.suppress(FileNotFoundError):  # none, or swept at this moment
            if match:
                found.append((int(match[1]), index.stat().st_mtime_ns, child))
    return [child for *_, child in sorted(found, reverse=True)]


def _check_finite(copies: Sequence[tuple[str, str, int, Array]]) -> None:
    """RunError where a value is not finite: no run could go on from it. Extremes carry NaN and infinity."""
    for name, state, _, values in copies:
        if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise RunError(f"{state} of {name} is not finite: not committed")


def step_of(folder: Place) -> int:
    """The step in the name of a checkpoint's folder."""
    match = layout.FOLDER.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def val_loss_of(folder: Place) -> float | None:
    """What a checkpoint is compared by: of a validation at its own step the loss, or another score of which
    the lowest is best. None where it has none, or no good index."""
    try:
        index = layout.index_from_bytes((folder / layout.INDEX).read_bytes())
        loss = index.get("score", index.get("val_loss"))
    except (FileNotFoundError, ValueError):
        return None
    return None if loss is None else float(loss)


def best_of(folder: Place, late: Mapping[str, float]) -> dict[str, Any] | None:
    """The committed checkpoint with the lowest validation loss at its own step; `late`: what came later."""
    losses = ((late.get(child.name, val_loss_of(child)), child) for child in committed_folders(folder))
    found = [(loss, child) for loss, child in losses if loss is not None]
    if not found:
        return None
    loss, child = min(found, key=lambda pair: pair[0])
    return {"folder": child.name, "step": step_of(child), "val_loss": loss}


def _await_receipt(path: Place) -> bytes:
    """Read a receipt when it is there: by opening it, since listings and stats are cached on NFS."""
    deadline = time.monotonic() + RECEIPT_SECONDS
    while True:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise RunError(f"{path}: did not arrive within {RECEIPT_SECONDS:.0f} s") from None
            time.sleep(0.5 if places.is_remote(path) else 0.02)
