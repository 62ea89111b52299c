"""What stands in the output folder when prepare starts: nothing, unfinished work, or a finished corpus.

A finished corpus keeps `input.json` beside the manifest: which files it was made of. It holds paths and
times, so it is no part of the corpus itself.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cluster import lease
from cluster.errors import UserError
from cluster.places import ObjectPath, Place, delete_tree, sync_folder, to_json, write_json
from data_jobs.hashes import sha256
from data_jobs.reading.inputs import InputFile
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.source_settings import SourceSettings, holds_names
from data_jobs.reading.sources import read_through
from data_jobs.settings import differences
from data_jobs.shards.manifest import INDEX, MANIFEST, SHARDS, TOKENIZER, read_manifest
from data_jobs.work import FOLDER

INPUT, REPORT, REPORT_PAGE, REJECTED = "input.json", "report.json", "report.html", "rejected"
OURS = (MANIFEST, INDEX, SHARDS, TOKENIZER, INPUT, REPORT, REPORT_PAGE, REJECTED, FOLDER)
_SETTINGS = "settings.json"
_ANY_BYTES = 1 << 40  # documents are not looked at where a digest alone is wanted

State = Literal["new", "unfinished", "finished"]


def look(
    out: Place, fixed: dict[str, Any], files: Sequence[InputFile], sources: Sequence[SourceSettings]
) -> State:
    """What is there; UserError where it was made from something else, with what differs and the ways out."""
    if (out / MANIFEST).exists():
        _refuse(out, "a corpus", differences(read_manifest(out)["settings"], fixed))
        _refuse(out, "a corpus", _input_differences(out, files, sources))
        return "finished"
    begun = out / FOLDER / _SETTINGS
    if begun.exists():
        try:
            old = json.loads(begun.read_bytes())
        except ValueError:
            old = {}
        _refuse(out, "an unfinished corpus", differences(old, fixed))
        return "unfinished"
    if not is_half_sent(out):  # of one that is, the scratch that it was sent from is gone
        check_clearable(out)
    return "new"


def begin(out: Path, fixed: dict[str, Any]) -> Path:
    """Make the scratch folder and write down for which settings it is; returns the folder of these settings.

    Scratch that does not say its settings is what a removal left that was cut short, or what a task wrote
    that outlived it: of which settings it is, nobody knows, so it goes. A task that is still at work for
    other settings writes into their folder.
    """
    work = out / FOLDER
    if not (work / _SETTINGS).exists():
        clear(out)
    write_json(work / _SETTINGS, fixed)
    return work / sha256(to_json(fixed))[:32]


def check_clearable(out: Place) -> None:
    """UserError where `clear` would leave something, and nothing is to be written beside it."""
    if _names(out) - (set(OURS) if _is_ours(out) else {FOLDER}):
        raise _taken(out)


def clear(out: Place) -> None:
    """`--fresh`: remove a corpus or what is there of one, the manifest first: no half of one stays.

    Cut short at any moment, what is left is still known as ours: by its scratch folder here, by the index in
    an object store. Both go last.
    """
    if isinstance(out, ObjectPath):
        if _is_ours(out):
            (out / MANIFEST).unlink(missing_ok=True)
            for name in sorted(OURS, key=lambda name: name == INDEX):  # by which the rest is known, last
                (out / name).unlink(missing_ok=True)
                delete_tree(out / name)
        return
    if not _is_ours(out):
        return
    (out / FOLDER).mkdir(exist_ok=True)
    sync_folder(out)
    (out / MANIFEST).unlink(missing_ok=True)
    sync_folder(out)
    for name in OURS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_ours(out: Place) -> bool:
    """Whether there is a corpus, or part of one."""
    second = INDEX if isinstance(out, ObjectPath) else FOLDER
    return (out / MANIFEST).exists() or (out / second).exists()


def _names(out: Place) -> set[str]:
    """What is there but a lease; of a file its own name."""
    if not out.exists():
        return set()
    return {item.name for item in out.iterdir()} - {lease.FOLDER} if out.is_dir() else {out.name}


def _taken(out: Place) -> UserError:
    return UserError(
        f"{out}: not empty and not a corpus, so nothing is written there; "
        "choose another place by --corpus.out"
    )


def is_half_sent(out: Place) -> bool:
    """Whether an object store has part of a corpus, and nothing else: the index is sent first."""
    if not isinstance(out, ObjectPath):
        return False
    names = _names(out)
    return INDEX in names and MANIFEST not in names and names <= set(OURS)


def clear_scratch(out: Place) -> None:
    """Remove scratch that a finished corpus may still have, if its last moment was cut short."""
    delete_tree(out / FOLDER)


def write_input(
    out: Path,
    files: Sequence[InputFile],
    sources: Sequence[SourceSettings],
    pieces: Sequence[dict[str, Any]],
) -> None:
    """`pieces`: what was read of which file, each {source, path, start, stop, digest}."""
    cuts: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for piece in pieces:
        cut = {key: piece[key] for key in ("start", "stop", "digest")}
        cuts.setdefault((piece["source"], piece["path"]), []).append(cut)
    rows = [
        {
            "source": sources[file.source].name,
            "name": file.name,
            "path": file.path,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "etag": file.etag,
            "cuts": cuts[file.source, file.path],
        }
        for file in files
    ]
    write_json(out / INPUT, {"files": rows})


def _refuse(out: Place, what: str, found: Sequence[str]) -> None:
    if found:
        more = f"\n  ... and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(
            f"{out}: {what} is there already, made from something else:\n  "
            + "\n  ".join(found[:10])
            + more
            + "\n"
            "Choose another place by --corpus.out, or replace it by --fresh"
        )


def _input_differences(
    out: Place, files: Sequence[InputFile], sources: Sequence[SourceSettings]
) -> list[str]:
    """Files that came, went or changed: by size and time, and where those differ by what they hold."""
    try:
        old: list[dict[str, Any]] = json.loads((out / INPUT).read_bytes())["files"]
    except (OSError, ValueError, KeyError):
        return []  # a corpus copied without it: nothing is known against it
    known = Counter(map(_stamp, old))
    new = []
    for file in files:
        stamp = (sources[file.source].name, file.path, file.size, file.mtime_ns, file.etag)
        if known[stamp]:
            known[stamp] -= 1
        else:
            new.append(file)
    stamps = +known
    left = []
    for row in old:
        if stamps[_stamp(row)]:
            stamps[_stamp(row)] -= 1
            left.append(row)
    found = []
    for file in new:
        source = sources[file.source]
        match = next((row for row in left if _same_content(row, file, source)), None)
        if match:
            left.remove(match)
        else:
            found.append(f"{file.path}: not among the files that it was made of, or changed")
    gone = {file.path for file in new}
    return found + [
        f"{row['path']}: was among the files that it was made of" for row in left if row["path"] not in gone
    ]


def _stamp(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["source"], row["path"], row["size"], row["mtime_ns"], row.get("etag", "")


def _same_content(row: dict[str, Any], file: InputFile, source: SourceSettings) -> bool:
    if row["source"] != source.name or row["size"] != file.size:
        return False
    if holds_names(source) and row["name"] != file.name:  # they are in the shards
        return False
    for cut in row["cuts"]:
        reading = Reading()
        read_through(Piece(file.path, cut["start"], cut["stop"]), reading, source, _ANY_BYTES)
        if reading.digest.hexdigest() != cut["digest"]:
            return False
    return True
