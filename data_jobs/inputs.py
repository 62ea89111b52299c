"""Sources of a recipe to files, and files to splits: the unit of data work and of its resume.

How the input is cut changes no output byte; it only decides how much one task does.
"""

from __future__ import annotations

import functools
import glob
import itertools
import os
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from data_jobs.raw_bytes import Piece, compression
from data_jobs.source_settings import SourceSettings

_USUAL = {
    "jsonl": ["*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.json", "*.json.gz", "*.json.zst", "*.ndjson"],
    "text": ["*.txt", "*.txt.gz", "*.txt.zst", "*.md", "*.rst"],
    "code": ["*.py"],
    "images": ["*.png", "*.jpg", "*.jpeg", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff", "*.ppm", "*.pgm"],
}
NEVER = frozenset([".git", ".hg", ".svn", "__pycache__", "node_modules", "site-packages", "dist-packages"])
# A small input is cut finer than split_bytes, so that several workers have work: into about this many.
_AIM_SPLITS = 64
_SMALLEST_SPLIT = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """A file of a source, as it was found."""

    source: int
    """Number of the source in the recipe."""
    path: str
    name: str
    """Path relative to the source's folder."""
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Split:
    """Pieces of files of one source that one task reads."""

    source: int
    pieces: tuple[Piece, ...]
    stamps: tuple[tuple[int, int], ...]
    """(size, mtime_ns) of the file of each piece: a file that changed is another split."""

    def to_json(self) -> dict[str, Any]:
        """As a task gets it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Split:
        """The inverse of `to_json`."""
        return cls(
            value["source"],
            tuple(Piece(**piece) for piece in value["pieces"]),
            tuple((size, mtime) for size, mtime in value["stamps"]),
        )


def list_files(sources: Sequence[SourceSettings], where: Callable[[str], str] = str) -> list[InputFile]:
    """All files of all sources, by source, then name. UserError where a source has none.

    `where`: a field's name with the place that sets it (Recipe.where).
    """
    found = []
    for number, source in enumerate(sources):
        field = f"corpus.sources.{number}.path"
        if not _is_there(source):
            raise UserError(f"{where(field)}: {_absolute(source.path)}: no such file or folder")
        files = sorted(_files_of(number, source), key=lambda file: (file.name, file.path))
        if not files:
            what = ", ".join(source.include or _USUAL[source.format])
            raise UserError(
                f"{where(field)}: no file in {source.path} "
                f"(looked for {what}{', less exclude' if source.exclude else ''})"
            )
        found.extend(files)
    return found


def cut_splits(
    files: Sequence[InputFile], sources: Sequence[SourceSettings], split_bytes: int
) -> list[Split]:
    """Splits of about the same size: large plain files by byte ranges, small ones together."""
    whole = sum(file.size for file in files)
    size = max(1, min(split_bytes, max(_SMALLEST_SPLIT, whole // _AIM_SPLITS)))
    splits: list[Split] = []
    for number, source in enumerate(sources):
        held: list[tuple[Piece, tuple[int, int]]] = []
        held_bytes = 0
        for file in (file for file in files if file.source == number):
            for piece, piece_bytes in _cut_file(file, source, size):
                if held and held_bytes + piece_bytes > size:
                    splits.append(_split(number, held))
                    held, held_bytes = [], 0
                held.append((piece, (file.size, file.mtime_ns)))
                held_bytes += piece_bytes
        if held:
            splits.append(_split(number, held))
    return splits


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
    return re.compile("|".join(f"(?:{glob_regex(pattern)})" for pattern in patterns) or r"(?!)")


def _files_of(number: int, source: SourceSettings) -> Iterator[InputFile]:
    text = _absolute(source.path)
    path = Path(text)
    exclude = _matcher(tuple(source.exclude))
    if path.is_dir():
        include = _matcher(tuple(source.include or _USUAL[source.format]))
        for file in _walk(path):
            name = file.relative_to(path).as_posix()
            if include.fullmatch(name) and not exclude.fullmatch(name):
                yield _input_file(number, file, name)
    elif path.exists():
        yield _input_file(number, path, path.name)
    else:
        root = _fixed_part(text)
        for hit in glob.iglob(text, recursive=True):
            file = Path(hit)
            name = file.relative_to(root).as_posix()
            if file.is_file() and not exclude.fullmatch(name):
                yield _input_file(number, file, name)


def _is_there(source: SourceSettings) -> bool:
    """A glob is: what it hits is another question."""
    path = _absolute(source.path)
    return os.path.exists(path) or glob.has_magic(path)


def _absolute(path: str) -> str:
    """Absolute, because tasks on workers may stand in another folder."""
    path = path.replace("{stdlib}", sysconfig.get_paths()["stdlib"])
    return os.path.abspath(os.path.expanduser(path))


def _fixed_part(pattern: str) -> Path:
    """The folder before the first name with a wildcard."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if name not in NEVER)
        yield from (Path(here, name) for name in sorted(names))


def _input_file(number: int, path: Path, name: str) -> InputFile:
    try:
        stat = path.stat()
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    # A name that is not UTF-8 is metadata of source code, and metadata is text: its bytes are escaped.
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return InputFile(number, str(path), name, stat.st_size, stat.st_mtime_ns)


def _cut_file(file: InputFile, source: SourceSettings, size: int) -> Iterator[tuple[Piece, int]]:
    by_line = source.format == "jsonl" or (source.format == "text" and source.per == "line")
    if not by_line or file.size <= size or compression(file.path):
        yield Piece(file.path, name=file.name), file.size
        return
    count = -(-file.size // size)
    cuts = [file.size * i // count for i in range(count + 1)]
    for start, stop in itertools.pairwise(cuts):
        yield Piece(file.path, start, None if stop == file.size else stop, file.name), stop - start


def _split(number: int, held: list[tuple[Piece, tuple[int, int]]]) -> Split:
    return Split(number, tuple(piece for piece, _ in held), tuple(stamp for _, stamp in held))
