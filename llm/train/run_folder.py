"""The run folder: what lies where, whose settings it belongs to, and how it is read."""

from __future__ import annotations

import contextlib
import json
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster import lease, places
from cluster.errors import RunError, UserError
from cluster.fields import Settings, values_of_kind
from cluster.places import ObjectPath, Place
from llm.run_settings import RunSettings
from llm.settings import FinetuneSettings, ModelSettings
from llm.train.best import Best, is_over
from llm.train.validations import join

FORMAT = "manta-run-1"
TAIL_BYTES = 1 << 14
STOP_POLL_SECONDS = 1.0
# Plan fields on which the order of the samples hangs: they cannot change in mid-run until a run has segments.
ORDER_FIELDS = (
    "pretrain.batch", "pretrain.batch_ramp", "pretrain.length", "pretrain.lanes", "pretrain.weights",
    "pretrain.packing", "corpus.corpus_id", "finetune.batch", "finetune.batch_ramp", "finetune.length",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Names of a run's files."""

    path: Place

    @property
    def settings(self) -> Place:
        return self.path / "settings.json"

    @property
    def deepspeed(self) -> Place:
        return self.path / "deepspeed.json"

    @property
    def metrics(self) -> Place:
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Place:
        """Numbers of checkpoints that were validated beside the training; written by the driver alone."""
        return self.path / "validation.jsonl"

    @property
    def tracking(self) -> Place:
        """What the numbers in metrics.jsonl are measured by, and the run's time over all starts."""
        return self.path / "tracking.json"

    @property
    def samples(self) -> Place:
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Place:
        return self.path / "checkpoints"

    @property
    def plans(self) -> Place:
        """How the corpus' documents are grouped into samples; made anew where it is missing."""
        return self.path / "plans"

    @property
    def tokenizer(self) -> Place:
        return self.path / "tokenizer"

    @property
    def summary(self) -> Place:
        return self.path / "summary.json"

    @property
    def trained(self) -> Place:
        """The summary without its last validation, while that is still to come from other workers."""
        return self.path / ".trained.json"

    @property
    def stop(self) -> Place:
        """A file that asks the workers to make a checkpoint and end."""
        return self.path / ".stop"

    @property
    def failure(self) -> Place:
        """Why a launch must not be tried again, written by the worker that found it."""
        return self.path / ".failure.json"

    def read_settings(self) -> dict[str, Any]:
        """UserError where this is no run folder."""
        try:
            value: dict[str, Any] = json.loads(self.settings.read_bytes())
        except FileNotFoundError:
            if isinstance(self.path, Path) and not self.path.exists():
                raise UserError(
                    f"{self.path}: no such folder; runs are in runs/<recipe>/pretrain and /finetune"
                ) from None
            raise UserError(f"{self.path}: no run folder: it has no {self.settings.name}") from None
        except NotADirectoryError:
            raise UserError(f"{self.path}: a file, not a run folder") from None
        except OSError as error:
            raise UserError(f"{self.settings}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise RunError(f"{self.settings}: damaged: {error}") from None
        if value.get("format") != FORMAT:
            raise UserError(f"{self.settings}: format {value.get('format')!r}, this version reads {FORMAT!r}")
        return value

    def read_summary(self) -> dict[str, Any] | None:
        """What a finished run says of itself; None while it is not finished."""
        return read_if_there(self.summary)


def read_if_there(path: Place) -> dict[str, Any] | None:
    """An object of a JSON file; None where there is none."""
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return value


def is_finished(summary: dict[str, Any] | None, settings: RunSettings) -> bool:
    """Whether a run has come to its end with these settings: its last step, or an early stop."""
    if summary is None or summary["steps"] >= settings.steps:
        return summary is not None
    patience = settings.early_stop.patience if isinstance(settings, FinetuneSettings) else None
    return is_over(Best(**summary["state"].get("best", {})), patience)


class StopSign:
    """Whether a run is asked to stop. In an object store a thread looks: each look takes a request."""

    def __init__(self, file: Place, watch: bool = True) -> None:
        """`watch`: this process will ask."""
        self.file = file
        self._seen, self._end = threading.Event(), threading.Event()
        if watch and places.is_remote(file):
            threading.Thread(target=self._look, name="stop-sign", daemon=True).start()

    def is_there(self) -> bool:
        return self._seen.is_set() if places.is_remote(self.file) else self.file.exists()

    def close(self) -> None:
        self._end.set()

    def _look(self) -> None:
        while not self._end.wait(STOP_POLL_SECONDS):
            with contextlib.suppress(OSError):
                if self.file.is_file():
                    self._seen.set()
                    return


def read_lines(path: Place) -> Iterator[dict[str, Any]]:
    """Objects of a JSON lines file; a torn last line, left by a killed writer, is passed over."""
    try:
        file = places.open_read(path)
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.endswith(b"\n"):
                yield line_of(path, line)


def line_of(path: Place, line: bytes) -> dict[str, Any]:
    """A whole line of a JSON lines file. RunError where it is none."""
    try:
        value: dict[str, Any] = json.loads(line)
    except ValueError:
        shown = line[:80].decode("utf-8", "replace")
        raise RunError(f"{path}: a line is damaged: {shown!r}") from None
    return value


def last_line(path: Place) -> dict[str, Any] | None:
    """The last whole line of a JSON lines file that may be growing, read from its end; None: not there."""
    try:
        whole = places.read_tail(path, TAIL_BYTES).rpartition(b"\n")[0]
        value: dict[str, Any] | None = json.loads(whole.rpartition(b"\n")[2]) if whole else None
    except (OSError, ValueError):
        return None
    return value


def last_lines(path: Place) -> list[dict[str, Any]]:
    """The last whole lines of a JSON lines file that may be growing, some tens, oldest first."""
    try:
        data = places.read_tail(path, TAIL_BYTES)
        lines = data.splitlines(keepends=True)[0 if len(data) < TAIL_BYTES else 1 :]
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except (OSError, ValueError):
        return []


def read_metrics(run: str | Place) -> list[dict[str, Any]]:
    """One dict a logged step of a run folder, in order; a validation stands at the step that it is of."""
    folder = RunFolder(places.at(run))
    folder.read_settings()
    return list(joined_lines(folder))


def joined_lines(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, with what validations beside the training have found since."""
    return join(read_lines(folder.metrics), read_lines(folder.validation))


def open_run(
    folder: RunFolder,
    model: ModelSettings,
    settings: RunSettings,
    data: dict[str, Any],
    accept: Sequence[str] = (),
    fresh: bool = False,
    start: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The record of a run in this folder with these settings: new, or the same run going on. Writes nothing.

    Raises UserError that names each field in which the folder's run differs, old and new. Plan fields named
    in `accept` may differ; what was accepted is recorded. `fresh`: whatever is there will be set aside.
    `data`: what the record says beside model and settings: `corpus`, and of a fine-tuning `task` and
    `examples`.
    """
    section = settings.section
    record: dict[str, Any] = {
        "format": FORMAT,
        "run_id": settings.wandb.run_id or f"{folder.path.name}-{secrets.token_hex(4)}",
        "model": model.model_dump(mode="json"),
        section: settings.model_dump(mode="json"),
        **data,
        "start": start,
        "environment": environment(),
        "accepted": [],
    }
    if fresh:
        return record
    if folder.settings.exists():
        saved = folder.read_settings()
        # A field that came later had its default's meaning.
        saved["model"] = ModelSettings.model_validate(saved["model"]).model_dump(mode="json")
        if section not in saved:
            kind = "pretraining" if "pretrain" in saved else "fine-tuning"
            raise UserError(f"{folder.path}: holds a {kind}: choose another --{section}.out")
        saved[section] = type(settings).model_validate(saved[section]).model_dump(mode="json")
        differing = list(differences(saved, model, settings, data))
        refused = [
            row for row in differing if row[0] not in accept or row[3] == "identity" or row[0] in ORDER_FIELDS
        ]
        if saved.get("start") != start:
            refused.append((f"{section}.start_from", saved.get("start"), start, "identity"))
        if refused:
            raise UserError(_refusal(folder, section, refused))
        record["run_id"] = saved["run_id"]
        record["accepted"] = saved["accepted"] + [
            {"field": name, "old": old, "new": new, "time": time.time()} for name, old, new, _ in differing
        ]
    elif folder.path.is_dir() and any(map(_is_foreign, folder.path.iterdir())):
        if folder.settings.exists():  # another start made it at this moment
            return open_run(folder, model, settings, data, accept, fresh, start)
        raise UserError(f"{folder.path}: not empty, and no run of ours: choose another --{section}.out")
    return record


def _refusal(folder: RunFolder, section: str, refused: Sequence[tuple[str, Any, Any, str]]) -> str:
    """What differs, and what can be done about it: --accept is offered where it helps, and nowhere else."""
    lines = [f"{name}: {old!r} there, {new!r} now ({kind})" for name, old, new, kind in refused]
    ordered = [name for name, *_ in refused if name in ORDER_FIELDS]
    accepted = [name for name, _, _, kind in refused if kind == "plan" and name not in ORDER_FIELDS]
    lines.append(f"Use the old values, another --{section}.out, or --fresh (the old folder is kept)")
    if ordered:
        lines.append(
            f"No --accept for {', '.join(ordered)}: the order of the samples hangs on it, and a run that has "
            "begun keeps its order, since samples would be repeated and missed"
        )
    if accepted:
        lines.append("This run goes on with the new values by " + " ".join(f"--accept {n}" for n in accepted))
    return f"{folder.path} belongs to a run with other settings:\n       " + "\n       ".join(lines)


def _is_foreign(child: Place) -> bool:
    """Whether a file is not from a start that is about to make the folder its run's."""
    return child.name != lease.FOLDER and not child.name.startswith(".settings.json.")


def begin_run(folder: RunFolder, record: dict[str, Any]) -> None:
    """Make the folder this run's own."""
    folder.path.mkdir(parents=True, exist_ok=True)
    places.write_json(folder.settings, record)


def differences(
    saved: dict[str, Any], model: ModelSettings, settings: RunSettings, data: dict[str, Any]
) -> Iterator[tuple[str, Any, Any, str]]:
    """(field, saved value, present value, kind) of every identity and plan field that differs."""
    parts: tuple[tuple[str, Settings], ...] = (("model", model), (settings.section, settings))
    for section, part in parts:
        for kind in ("identity", "plan"):
            for dotted, value in values_of_kind(part, kind).items():
                old: Any = saved[section]
                for name in dotted.split("."):
                    old = old.get(name) if isinstance(old, dict) else None
                if old != value:
                    yield f"{section}.{dotted}", old, value, kind
    facts = (
        ("corpus", "tokenizer", "identity"),
        ("corpus", "corpus_id", "plan"),
        ("examples", "digest", "identity"),
    )
    for of, name, kind in facts:
        if of in data and name in data[of] and saved[of].get(name) != data[of][name]:
            yield f"{of}.{name}", saved[of].get(name), data[of][name], kind


def set_aside(path: Place) -> Place | None:
    """Move what a folder holds, all but its lease, out of the way; None where it was empty.

    Nothing is deleted. The settings go first: a folder left half moved passes for no run of ours.
    """
    children: list[Place] = list(path.iterdir())
    there = sorted(children, key=lambda child: child.name != RunFolder(path).settings.name)
    there = [child for child in there if child.name != lease.FOLDER]
    if not there:
        return None
    if isinstance(path, ObjectPath):
        path.check_movable()  # all of it, before the first is moved
    aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    aside.mkdir()
    for child in there:
        places.move(child, aside / child.name)
    return aside


def environment() -> dict[str, Any]:
    """Versions and machine, for the report."""
    names = ("torch", "ray", "deepspeed", "pyarrow", "sentencepiece", "wandb", "numpy")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
    } | versions
