"""Files of a source and their cut into splits."""

from __future__ import annotations

import gzip
import itertools
import os
import re
from pathlib import Path

import pytest

from cluster.errors import UserError
from data_jobs.reading.folders import glob_regex
from data_jobs.reading.inputs import USUAL, cut_splits, list_files
from data_jobs.reading.source_settings import SourceSettings


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("*.py", ["a.py", "x/y/a.py"], ["a.pyc", "a.py/b"]),
        ("**/tests/**", ["tests/a.py", "x/tests/y/a.py"], ["mytests/a.py", "tests.py"]),
        ("tests/", ["tests/a", "tests/b/c"], ["x/tests/a"]),
        ("docs/*.md", ["docs/a.md"], ["docs/x/a.md", "a.md"]),
        ("a?[0-9].t", ["ab1.t", "x/ab1.t"], ["abx.t", "a/1.t"]),
        ("[!a].t", ["b.t"], ["a.t"]),
        ("**/*_test.go", ["a_test.go", "p/q/a_test.go"], ["a.go"]),
    ],
)
def test_globs(pattern: str, hits: list[str], misses: list[str]) -> None:
    regex = re.compile(glob_regex(pattern))
    assert all(regex.fullmatch(name) for name in hits)
    assert not any(regex.fullmatch(name) for name in misses)


def source(path: Path | str, **fields: object) -> SourceSettings:
    return SourceSettings.model_validate({"name": "s", "path": str(path), **fields})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a.py",
        "p/b.py",
        "p/tests/c.py",
        "__pycache__/d.py",
        "site-packages/e.py",
        "n.txt",
        "z.pyc",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name * 40)
    return tmp_path


def names(found: SourceSettings) -> list[str]:
    return [file.name for file in list_files([found])]


def test_tree_of_code(tree: Path) -> None:
    assert names(source(tree, format="code")) == ["a.py", "p/b.py", "p/tests/c.py"]
    assert names(source(tree, format="code", exclude=["**/tests/**"])) == ["a.py", "p/b.py"]
    assert names(source(tree, format="code", include=["*.txt", "a.*"])) == ["a.py", "n.txt"]


def test_file_glob_and_stdlib(tree: Path) -> None:
    assert names(source(tree / "n.txt")) == ["n.txt"]
    assert names(source(f"{tree}/**/*.py", exclude=["a.py", "**/tests/**"]))[:1] == ["__pycache__/d.py"]
    assert "json/decoder.py" in names(source("{stdlib}", format="code"))


@pytest.mark.parametrize("path", ["missing.jsonl", "no*thing", "."])
def test_nothing_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"corpus\.sources\.0\.path: .*no"):
        list_files([source(tmp_path / path)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tree: Path) -> None:
    (tree / "n.txt").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        list_files([source(tree / "n.txt")])


def test_splits_cover_each_file_once(tmp_path: Path) -> None:
    for number, size in enumerate((10, 2_000, 0, 50_000)):
        (tmp_path / f"{number}.jsonl").write_bytes(b"x" * size)
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(os.urandom(9_000)))
    found = source(tmp_path)
    files = list_files([found])
    splits = cut_splits(files, [found], 4_000)
    ranges: dict[str, list[tuple[int, int | None]]] = {}
    for split in splits:
        for piece in split.pieces:
            ranges.setdefault(piece.name, []).append((piece.start, piece.stop))
    assert ranges.keys() == {file.name for file in files}
    assert len(ranges["3.jsonl"]) == 13 and ranges["z.jsonl.gz"] == [(0, None)]
    for cuts in ranges.values():
        assert cuts[0][0] == 0 and cuts[-1][1] is None
        assert all(one[1] == other[0] for one, other in itertools.pairwise(cuts))


def test_what_is_taken_of_a_folder_by_format(tmp_path: Path) -> None:
    for name in (
        "a.jsonl.xz", "a.parquet", "a.csv.gz", "a.tsv", "a.feather", "a.html", "a.warc.gz", "a.warc.wet.gz",
        "a.png", "B.JPG", "a.txt.zst", "a.bin",
    ):  # fmt: skip
        (tmp_path / name).touch()
    found = {format: names(source(tmp_path, format=format)) for format in USUAL if format != "code"}
    assert found == {
        "jsonl": ["a.jsonl.xz"], "text": ["a.txt.zst"], "parquet": ["a.parquet"],
        "csv": ["a.csv.gz", "a.tsv"], "arrow": ["a.feather"],
        "html": ["a.html"], "warc": ["a.warc.gz"], "wet": ["a.warc.wet.gz"],
        "images": ["B.JPG", "a.png"],
    }  # fmt: skip


def test_no_format_but_these_is_cut(tmp_path: Path) -> None:
    cut = set()
    for format in USUAL:
        end = "ndjson" if format == "jsonl" else USUAL[format][0].removeprefix("*.")
        folder = tmp_path / format
        folder.mkdir()
        (folder / f"a.{end}").write_bytes(b"ARROW1\0\0" + b"x" * 5_000)
        found = source(folder, format=format)
        if len(cut_splits(list_files([found]), [found], 1_000)) > 1:
            cut.add(format)
    assert cut == {"jsonl", "parquet", "arrow"}
