"""Files under a folder or behind a glob, on this machine or in an object store."""

from __future__ import annotations

import functools
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster import places
from cluster.errors import UserError
from cluster.places import ObjectPath

NEVER = frozenset([".git", ".hg", ".svn", "__pycache__", "node_modules", "site-packages", "dist-packages"])


class Found(NamedTuple):
    """A file as it was found."""

    path: str
    name: str
    """Path relative to the folder, or to what of a glob has no wildcard."""
    size: int
    mtime_ns: int
    etag: str


def find_files(path: str, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Found] | None:
    """A file, the files under a folder that `include` takes, or those behind a glob; None: nothing is there.

    `exclude` leaves out files of folders and globs. Symbolic links to folders are not followed, but where a
    name in the path is one. UserError where something cannot be read.
    """
    left_out = _matcher(tuple(exclude))
    taken = _matcher(tuple(include))
    place = places.at(path)
    if isinstance(place, ObjectPath):
        return _find_objects(place, taken, left_out)
    if place.is_dir():
        return (
            _local(file, name)
            for file, name in _walk(place, NEVER)
            if taken.fullmatch(name) and not left_out.fullmatch(name)
        )
    if place.exists() or place.is_symlink():
        return iter([_local(place, place.name)])
    if not glob.has_magic(path):
        return None
    return (_local(file, name) for file, name in _behind_glob(path) if not left_out.fullmatch(name))


def glob_regex(pattern: str) -> str:
    """A regular expression for one pattern over relative paths with '/'.

    `*` and `?` stay inside a name, `**` crosses folders, `[abc]` is one of; a pattern without '/' is
    looked for at any depth ('*.py'), one that ends in '/' takes all below ('tests/').
    """
    if pattern.endswith("/"):
        pattern += "**"
    if "/" not in pattern:
        pattern = "**/" + pattern
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:[^/]+/)*", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            out, at = out + "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]", end + 1
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return out


@functools.lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # DOTALL: a file's name may hold a newline.
    return re.compile("|".join(f"(?:{glob_regex(pattern)})" for pattern in patterns) or r"(?!)", re.DOTALL)


def _find_objects(
    place: ObjectPath, taken: re.Pattern[str], left_out: re.Pattern[str]
) -> Iterator[Found] | None:
    """In an object store; a glob's fixed part is what is listed."""
    if place.is_file():
        return iter([Found(str(place), place.name, *place.stat())])
    if not glob.has_magic(place.key):
        if not (stats := place.stats()):
            return None
        return (
            Found(str(place / name), name, *known)
            for name, known in stats.items()
            if taken.fullmatch(name) and not left_out.fullmatch(name) and not NEVER & set(name.split("/"))
        )
    parts = place.key.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder = ObjectPath(place.root, "/".join(parts[:first]))
    behind = re.compile(glob_regex("/" + "/".join(parts[first:])), re.DOTALL)  # '/': at this depth alone
    return (
        Found(str(folder / name), name, *known)
        for name, known in folder.stats().items()
        if behind.fullmatch("/" + name) and not left_out.fullmatch(name)
    )


def _behind_glob(pattern: str) -> Iterator[tuple[Path, str]]:
    """(file, name) for each hit. `**` does not go through links: a loop of them would have no end."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:first])
    if "**" not in parts:
        for hit in glob.iglob(pattern):
            file = Path(hit)
            if not file.is_dir():
                yield file, file.relative_to(root).as_posix()
        return
    behind = re.compile(glob_regex("/" + "/".join(parts[first:])), re.DOTALL)
    shows_hidden = any(part.startswith(".") for part in parts[first:])
    for file, name in _walk(root, frozenset()):
        hidden = any(part.startswith(".") for part in name.split("/"))
        if behind.fullmatch("/" + name) and (shows_hidden or not hidden):
            yield file, name


def _walk(folder: Path, never: frozenset[str]) -> Iterator[tuple[Path, str]]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if name not in never)
        for name in sorted(names):
            file = Path(here, name)
            yield file, file.relative_to(folder).as_posix()


def _local(path: Path, name: str) -> Found:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its writer
            raise UserError(f"{path}: is no regular file; leave it out by exclude")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return Found(str(path), name, found.st_size, found.st_mtime_ns, "")
