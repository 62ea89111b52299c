"""The sweep folder: what lies where, whose recipe it belongs to."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import lease, places
from cluster.errors import RunError, UserError
from cluster.places import Place
from llm.train.run_folder import read_if_there

FORMAT = "manta-sweep-1"


@dataclass(frozen=True)
class SweepFolder:
    """Names of a sweep's files."""

    path: Place

    @property
    def record(self) -> Place:
        return self.path / "sweep.json"

    @property
    def ledger(self) -> Place:
        return self.path / "ledger.jsonl"

    @property
    def lineage(self) -> Place:
        return self.path / "lineage.jsonl"

    @property
    def table(self) -> Place:
        return self.path / "trials.csv"

    @property
    def summary(self) -> Place:
        return self.path / "summary.json"

    @property
    def best(self) -> Place:
        return self.path / "best"

    @property
    def examples(self) -> Place:
        """Of a task, as rows: all trials share them."""
        return self.path / "examples"

    @property
    def tune(self) -> Place:
        """Ray Tune's own files; nothing of them is needed again."""
        return self.path / "tune"

    @property
    def stop(self) -> Place:
        """A file that asks all trials to make a checkpoint and end."""
        return self.path / ".stop"

    def trial(self, name: str) -> Place:
        """A trial's run folder."""
        return self.path / "trials" / name

    def read_record(self) -> dict[str, Any]:
        """UserError where this is no sweep folder."""
        try:
            value: dict[str, Any] = json.loads(self.record.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path}: no sweep folder: it has no {self.record.name}") from None
        except ValueError as error:
            raise RunError(f"{self.record}: damaged: {error}") from None
        if value.get("format") != FORMAT:
            raise UserError(f"{self.record}: format {value.get('format')!r}, this version reads {FORMAT!r}")
        return value

    def read_summary(self) -> dict[str, Any] | None:
        """What a finished sweep says of itself; None while it is not finished."""
        return read_if_there(self.summary)


def open_sweep(
    folder: SweepFolder, name: str, record: Mapping[str, Any], trials: int, fresh: bool
) -> dict[str, Any]:
    """The record of a sweep in this folder: new, or the same one going on. Writes nothing.

    `record`: section, space and so on, and under `recipe` what must be equal, dotted name to value. UserError
    names each field in which the folder's sweep differs, old and new, or says that the folder is another's.
    """
    new = {"format": FORMAT, "sweep_id": f"{name}-{secrets.token_hex(4)}", **record, "trials": trials}
    if fresh:
        return new
    if folder.record.exists():
        saved = folder.read_record()
        differing = list(_differences(saved["recipe"], record["recipe"]))
        if trials < saved["trials"]:
            differing.append(("sweep.trials", saved["trials"], trials))
        if differing:
            lines = [f"{field}: {old!r} there, {now!r} now" for field, old, now in differing]
            lines.append("Use the old values, another --sweep.out, or --fresh (the old folder is kept)")
            raise UserError(
                f"{folder.path} belongs to a sweep with another recipe:\n       " + "\n       ".join(lines)
            )
        return new | {"sweep_id": saved["sweep_id"]}
    if folder.path.is_dir() and any(map(_is_foreign, folder.path.iterdir())):
        raise UserError(f"{folder.path}: not empty, and no sweep of ours: choose another --sweep.out")
    return new


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """A field that came later had its default's meaning: only those that both know are compared."""
    now = json.loads(places.to_json(now))
    for field in now:
        if field in saved and saved[field] != now[field]:
            yield field, saved[field], now[field]


def _is_foreign(child: Place) -> bool:
    """Whether a file is not from a start that has not come as far as the record."""
    return child.name not in (lease.FOLDER, "examples") and not child.name.startswith(".sweep.json.")


def scratch(folder: SweepFolder, cache: str, sweep_id: str) -> Path:
    """Where Ray Tune's own files are: in the folder, or of one in an object store on this machine."""
    return folder.tune if isinstance(folder.tune, Path) else Path(cache) / "sweeps" / sweep_id
