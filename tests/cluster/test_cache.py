"""Copies of remote files: fetched once by a machine, bounded, never taken from who uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import places
from cluster.cache import Cache
from cluster.errors import UserError
from cluster.places import ObjectPath
from tests.object_store import S3

SIZE = 1000


@pytest.fixture
def files(bucket: str) -> ObjectPath:
    """Five files of SIZE bytes, named by a letter."""
    for name in "abcde":
        places.write_bytes(f"{bucket}/{name}", name.encode() * SIZE)
    place = places.at(bucket)
    assert isinstance(place, ObjectPath)
    return place


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


def test_fetched_once_and_kept(s3: S3, files: ObjectPath, tmp_path: Path) -> None:
    s3.log()
    for _ in range(2):
        cache = Cache(tmp_path, 10_000)
        for _ in range(2):
            assert cache.copy_of(files / "a", "x/a", SIZE).read_bytes() == b"a" * SIZE
    assert len(s3.log()) == 1


def test_the_longest_unused_goes(files: ObjectPath, tmp_path: Path) -> None:
    for name in "abc":
        cache = Cache(tmp_path, 3 * SIZE)
        os.utime(cache.copy_of(files / name, name, SIZE), (1, 1 + ord(name)))
        cache.release(name)
    cache = Cache(tmp_path, 3 * SIZE)
    cache.copy_of(files / "a", "a", SIZE)  # used again
    cache.copy_of(files / "d", "d", SIZE)
    assert names(tmp_path) == ["a", "c", "d"]
    cache.copy_of(files / "e", "e", SIZE)
    assert names(tmp_path) == ["a", "d", "e"]
    with pytest.raises(UserError, match=r"cluster\.cache_bytes"):  # all three are in use
        cache.copy_of(files / "b", "b", SIZE)
    cache.release("d")
    assert cache.copy_of(files / "b", "b", SIZE).read_bytes() == b"b" * SIZE
    assert names(tmp_path) == ["a", "b", "e"]


def test_a_copy_in_use_by_another_process_stays_and_goes_with_it(files: ObjectPath, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cluster import places\nfrom cluster.cache import Cache\n"
        f"cache = Cache(sys.argv[1], {SIZE})\n"
        f"cache.copy_of(places.at(sys.argv[2]), 'a', {SIZE})\nprint('has', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(files / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "has\n"
        with pytest.raises(UserError, match="are in use"):
            Cache(tmp_path, SIZE).copy_of(files / "b", "b", SIZE)
        other.kill()
    assert Cache(tmp_path, SIZE).copy_of(files / "b", "b", SIZE).exists()
    assert names(tmp_path) == ["b"]


FETCH = """
import sys, time
from cluster import places
from cluster.cache import Cache
cache = Cache(sys.argv[1], 10_000)
print("ready", flush=True)
sys.stdin.readline()
for name in "abcde":
    assert cache.copy_of(places.at(sys.argv[2]) / name, name, 1000).read_bytes() == name.encode() * 1000
"""


def test_several_processes_fetch_each_file_once(s3: S3, files: ObjectPath, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FETCH, str(tmp_path), str(files)]
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **start) for _ in range(4)]  # type: ignore[call-overload]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    s3.log()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate() and worker.returncode for worker in workers] == [0] * 4
    assert len(s3.log()) == 5


def test_what_a_kill_leaves_is_fetched_anew(files: ObjectPath, tmp_path: Path) -> None:
    """Killed while it fetched: its part holds up nobody, and its room is given back."""
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies/a.part").write_bytes(b"x" * 700)
    (tmp_path / "copies/c.part").write_bytes(b"x" * 700)
    cache = Cache(tmp_path, SIZE)
    assert cache.copy_of(files / "a", "a", SIZE).read_bytes() == b"a" * SIZE
    assert names(tmp_path) == ["a"]


def test_one_that_is_being_fetched_need_not_be_waited_for(files: ObjectPath, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "copies").mkdir()
    with open(tmp_path / "copies/a.part", "wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        before = time.monotonic()
        assert Cache(tmp_path, SIZE).fetch(files / "a", "a", SIZE, wait=False) is None
        assert time.monotonic() - before < 1


def test_a_short_file_is_named(files: ObjectPath, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"{files}/a: ends before byte 1,001"):
        Cache(tmp_path, 10_000).copy_of(files / "a", "a", SIZE + 1)
    assert names(tmp_path) == []
