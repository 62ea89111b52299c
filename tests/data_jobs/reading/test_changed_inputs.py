"""Input that changes, vanishes or cannot be read is named; odd names and links are no trouble."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RunError, UserError
from data_jobs.reading import sources
from data_jobs.reading.inputs import cut_splits, list_files
from data_jobs.reading.raw_bytes import Reading
from data_jobs.reading.sources import read_source
from tests.data_jobs.conftest import prepare, settings_for, source_of, write_jsonl
from tests.data_jobs.input_files import KINDS, write_source

TEXTS = [f"text {number} of a file that changes" for number in range(40)]


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def rewrite(path: Path) -> None:
    """The same size, another time."""
    data = path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "grows": (append, "changed while it was read"),
    "is written anew": (rewrite, "changed while it was read"),
    "shrinks": (lambda path: os.truncate(path, 10), "changed while it was read"),
    "vanishes": (Path.unlink, "vanished while it was read"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, kind: str, change: str) -> None:
    said = write_source(tmp_path / "in", kind, TEXTS)
    source = source_of(**said)
    split = cut_splits(list_files([source]), [source], 1 << 30)[0]
    piece = split.pieces[0]
    do, words = CHANGES[change]
    items = read_source(piece, Reading(), source, 1 << 20)
    next(items)
    do(Path(piece.path))
    with pytest.raises(UserError, match=f"{Path(piece.path).name}: {words}"):
        list(items)


def test_a_file_that_changed_after_it_was_listed_ends_the_job(tmp_path: Path) -> None:
    from data_jobs.pipeline import Build
    from data_jobs.work import run_here

    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    settings = settings_for(path, val_fraction=0.0, tokenizer={"vocab_size": 330})
    files = list_files(settings.sources)
    append(path)
    build = Build(settings, tmp_path / "out", files, run_here, lambda *_: None)
    with pytest.raises(UserError, match=r"in\.jsonl: changed while it was read: it was [0-9]+ bytes"):
        build.run()
    assert not (tmp_path / "out" / "manifest.json").exists()
    write_jsonl(path, TEXTS)
    assert prepare(settings, tmp_path / "out")["counts"]["documents"]["out"] == 40


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    source = source_of(path)
    (split,) = cut_splits(list_files([source]), [source], 1 << 30)

    def fail(path: str) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sources, "stamp_of", fail)
    with pytest.raises(RunError, match=r"in\.jsonl: cannot be read: Input/output error; the same command"):
        list(read_source(split.pieces[0], Reading(), source, 1 << 20))


NAMES = [
    "with a blank.jsonl",
    "new\nline.jsonl",
    "größe 海.jsonl",
    "..double..dots.jsonl",
    "[a]*?.jsonl",
    "#%20&.jsonl",
]


def test_names_of_all_sorts(tmp_path: Path) -> None:
    folder = tmp_path / "a folder\nwith .. in it"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write_jsonl(folder / name, TEXTS[number::6])
    (folder / os.fsdecode(b"no utf-8 \xff.jsonl")).write_bytes(b"")
    source = source_of(folder)
    assert sorted(file.name for file in list_files([source])) == sorted([*NAMES, "no utf-8 \\xff.jsonl"])
    for name in NAMES:
        assert [file.name for file in list_files([source_of(folder / name)])] == [name]
    settings = settings_for(folder, val_fraction=0.0, tokenizer={"vocab_size": 330})
    assert prepare(settings, tmp_path / "out")["counts"]["documents"]["out"] == 40


def test_links(tmp_path: Path) -> None:
    """A link to a file is the file; one to a folder is not followed, so a loop of them has an end."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    path = write_jsonl(folder / "deep" / "a.jsonl", TEXTS)
    (folder / "b.jsonl").symlink_to(path)
    (folder / "deep" / "loop").symlink_to(folder)
    assert [file.name for file in list_files([source_of(folder)])] == ["b.jsonl", "deep/a.jsonl"]
    found = list_files([source_of(f"{folder}/**/*.jsonl")])
    assert [file.name for file in found] == ["b.jsonl", "deep/a.jsonl"]
    assert [file.name for file in list_files([source_of(f"{folder}/*.jsonl")])] == ["b.jsonl"]
    assert [file.name for file in list_files([source_of(f"{folder}/*/*.jsonl")])] == ["deep/a.jsonl"]


@pytest.mark.parametrize("target", ["itself.jsonl", "nowhere.jsonl"])
def test_links_to_nothing_are_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "itself.jsonl").symlink_to(tmp_path / target)
    for path in (tmp_path, tmp_path / "itself.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(UserError, match=r"itself\.jsonl: cannot be read"):
            list_files([source_of(path)])


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"pipe\.jsonl: is no regular file"):
        list_files([source_of(tmp_path)])


def test_hidden_files_stand_behind_no_star(tmp_path: Path) -> None:
    for name in (".hidden.jsonl", ".dir/a.jsonl", "b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in list_files([source_of(f"{tmp_path}/**/*.jsonl")])] == ["b.jsonl"]
    shown = list_files([source_of(f"{tmp_path}/**/.*.jsonl")])
    assert [file.name for file in shown] == [".hidden.jsonl"]


def test_a_sparse_file_of_4_gb_is_cut_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.touch()
    os.truncate(path, 4 << 30)
    source = source_of(path)
    splits = cut_splits(list_files([source]), [source], 64 << 20)
    assert len(splits) == 64 and splits[-1].pieces[-1].stop is None


FULL = """
import resource, sys
from tests.data_jobs.conftest import prepare, settings_for
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    prepare(settings_for(sys.argv[1], val_fraction=0.0, tokenizer={"vocab_size": 330}), Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("most", "where"), [(100, "{out}: "), (3_000, "stage clean: "), (114_000, "stage spill: ")]
)
def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path: Path, most: int, where: str) -> None:
    """A limit for files stands for it: errno 27 where a full disk has 28. The first file is of the driver."""
    path = write_jsonl(tmp_path / "in.jsonl", [f"{number} {text}" for number in range(20) for text in TEXTS])
    if "spill" in where:  # a run of texts fits, one of tokens does not; both have the path in each row
        most += 800 * len(str(path))
    words = [sys.executable, "-c", FULL, str(path), str(tmp_path / "out"), str(most)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = f"RunError {where.format(out=tmp_path / 'out')}[Errno 27] File too large"
    assert done.stdout.startswith(said) and "the same command continues" in done.stdout, done.stdout
    assert str(tmp_path / "out") in done.stdout
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    settings = settings_for(path, val_fraction=0.0, tokenizer={"vocab_size": 330})
    assert prepare(settings, tmp_path / "out")["counts"]["documents"]["out"] == 800
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
