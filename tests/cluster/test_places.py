"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import places


def test_write_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    places.write_bytes(path, b"one")
    places.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        places.write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("point", ["os.fsync", "os.rename"])
def test_killed_in_the_middle_leaves_the_old_content(tmp_path: Path, point: str) -> None:
    """The process kills itself when it comes to fsync (data not yet on disk) or to rename (not yet named)."""
    path = tmp_path / "file"
    places.write_bytes(path, b"old")
    code = (
        "import os, signal, sys\nfrom cluster import places\n"
        f"{point} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "places.write_bytes(sys.argv[1], b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    visible = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
    assert visible == ["file"]  # what is left over is hidden, and no reader takes it for a file of ours


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    places.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        places.write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_data_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watched_rename(a: str, b: str) -> None:
        calls.append("rename")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    places.write_bytes(tmp_path / "file", b"x")
    (tmp_path / "tmp").write_bytes(b"y")
    places.commit_file(tmp_path / "tmp", tmp_path / "final")
    assert calls == ["file", "rename", "folder"] * 2
    assert (tmp_path / "final").read_bytes() == b"y"


def test_equal_values_give_equal_json() -> None:
    a = places.to_json({"b": 1, "a": [1.5, None, "ü"]})
    assert a == places.to_json(dict(reversed({"b": 1, "a": [1.5, None, "ü"]}.items())))
    assert a == '{"a":[1.5,null,"ü"],"b":1}\n'.encode()


def test_a_file_name_that_is_no_utf8_comes_back() -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    assert json.loads(places.to_json([name])) == [name]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        places.to_json({"loss": value})
