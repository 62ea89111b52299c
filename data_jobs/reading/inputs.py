"""Sources of a recipe to files, and files to splits: the unit of data work and of its resume.

How the input is cut changes no output byte; it only decides how much one task does.
"""

from __future__ import annotations

import itertools
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster import places
from cluster.errors import UserError
from data_jobs.reading.folders import find_files
from data_jobs.reading.raw_bytes import Piece, compression, make_stamp, open_input
from data_jobs.reading.source_settings import SourceSettings


def _compressed_too(*patterns: str) -> list[str]:
    return [pattern + end for pattern in patterns for end in ("", ".gz", ".zst", ".xz")]


_IMAGES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")
USUAL = {
    "jsonl": _compressed_too("*.jsonl", "*.json", "*.ndjson"),
    "text": [*_compressed_too("*.txt"), "*.md", "*.rst"],
    "code": ["*.py"],
    "parquet": ["*.parquet", "*.pq"],
    "csv": _compressed_too("*.csv", "*.tsv"),
    "arrow": _compressed_too("*.arrow", "*.arrows", "*.feather", "*.ipc"),
    "html": _compressed_too("*.html", "*.htm", "*.xhtml"),
    "warc": _compressed_too("*.warc"),
    "wet": _compressed_too("*.wet"),
    "images": [f"*.{end}" for name in _IMAGES for end in (name, name.upper())],
}
"""The files that are taken under a folder where `include` says nothing."""
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
    etag: str = ""
    """What an object store says that it holds."""

    @property
    def stamp(self) -> str:
        """What tells it from another version of it."""
        return make_stamp(self.size, self.mtime_ns, self.etag)


@dataclass(frozen=True)
class Split:
    """Pieces of files of one source that one task reads; of a file that changed there are others."""

    source: int
    pieces: tuple[Piece, ...]

    def to_json(self) -> dict[str, Any]:
        """As a task gets it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Split:
        """The inverse of `to_json`."""
        return cls(value["source"], tuple(Piece(**piece) for piece in value["pieces"]))


def list_files(sources: Sequence[SourceSettings], where: Callable[[str], str] = str) -> list[InputFile]:
    """All files of all sources, by source, then name. UserError where a source has none.

    `where`: a field's name with the place that sets it (Recipe.where).
    """
    found = []
    for number, source in enumerate(sources):
        field = f"corpus.sources.{number}.path"
        if source.format in ("html", "warc"):
            from data_jobs.reading.html_text import check_extractor

            check_extractor(source)
        path = absolute(source.path)
        hits = find_files(path, source.include or USUAL[source.format], source.exclude)
        if hits is None:
            raise UserError(f"{where(field)}: {path}: no such file or folder")
        files = [
            # A name that is not UTF-8 is metadata, and metadata is text: its bytes are escaped.
            InputFile(
                number,
                hit.path,
                hit.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
                hit.size,
                hit.mtime_ns,
                hit.etag,
            )
            for hit in hits
        ]
        if not files:
            what = ", ".join(source.include or USUAL[source.format])
            raise UserError(
                f"{where(field)}: no file in {source.path} "
                f"(looked for {what}{', less exclude' if source.exclude else ''})"
            )
        found.extend(sorted(files, key=lambda file: (file.name, file.path)))
    return found


def cut_splits(
    files: Sequence[InputFile], sources: Sequence[SourceSettings], split_bytes: int
) -> list[Split]:
    """Splits of about the same size: large files in ranges where they can be cut, small ones together."""
    whole = sum(file.size for file in files)
    size = max(1, min(split_bytes, max(_SMALLEST_SPLIT, whole // _AIM_SPLITS)))
    splits: list[Split] = []
    for number, source in enumerate(sources):
        held: list[Piece] = []
        held_bytes = 0
        for file in (file for file in files if file.source == number):
            for piece, piece_bytes in _cut_file(file, source, size):
                if held and held_bytes + piece_bytes > size:
                    splits.append(Split(number, tuple(held)))
                    held, held_bytes = [], 0
                held.append(piece)
                held_bytes += piece_bytes
        if held:
            splits.append(Split(number, tuple(held)))
    return splits


def absolute(path: str) -> str:
    """Absolute, because tasks on workers may stand in another folder; `~` and {stdlib} are filled in."""
    if places.is_remote(path):
        return str(places.at(path))
    path = path.replace("{stdlib}", sysconfig.get_paths()["stdlib"])
    return os.path.abspath(os.path.expanduser(path))


def _cut_file(file: InputFile, source: SourceSettings, size: int) -> Iterator[tuple[Piece, int]]:
    if file.size <= size or not _can_be_cut(file, source):
        yield Piece(file.path, name=file.name, stamp=file.stamp), file.size
        return
    count = -(-file.size // size)
    cuts = [file.size * i // count for i in range(count + 1)]
    for start, stop in itertools.pairwise(cuts):
        end = None if stop == file.size else stop
        yield Piece(file.path, start, end, file.name, file.stamp), stop - start


def _can_be_cut(file: InputFile, source: SourceSettings) -> bool:
    """Lines of plain files, row groups, record batches: what can be found without reading from the front."""
    match source.format:
        case "jsonl" | "text":
            return (source.format == "jsonl" or source.per == "line") and compression(file.path) is None
        case "parquet":
            return True
        case "arrow":
            from data_jobs.reading.tables import MAGIC

            with open_input(file.path) as opened:
                return opened.read(len(MAGIC)) == MAGIC
    return False
