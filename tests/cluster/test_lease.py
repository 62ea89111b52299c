"""One writer: who may take a lease when, and that nobody else goes on writing. In both kinds of places."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster import lease, places
from cluster.errors import UserError
from cluster.lease import Holder, Lease, Superseded, hold, read
from cluster.places import Place

HOLDER = """
import sys, time
from cluster import lease, places
lease.RENEW_SECONDS = 0.2
from cluster.errors import UserError
while time.time() < float(sys.argv[2]): pass
try:
    mine = lease.hold(places.at(sys.argv[1]))
except UserError as error:
    print("refused", error, flush=True)
    sys.exit(2)
print("holds", mine.holder.generation, flush=True)
for line in sys.stdin:
    try:
        mine.of_workers.check()
        print("ok", flush=True)
    except lease.Superseded as error:
        print("superseded", flush=True)
"""


def start(folder: Place, at: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(at)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip


def says(process: subprocess.Popen[str], ask: bool = False) -> str:
    assert process.stdin is not None and process.stdout is not None
    if ask:
        process.stdin.write("\n")
        process.stdin.flush()
    while "waiting for" in (line := process.stdout.readline()):
        pass
    return line.strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "EXPIRED_SECONDS", 1.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)


def elsewhere(folder: Place, generation: int = 1, job: str | None = None) -> Holder:
    """A holder on another machine, as it would have written itself."""
    holder = Holder(generation, "t0ken", "far-away", "b00t", 1, "7", job)
    places.write_json(lease._file(folder, generation), asdict(holder))
    return holder


def test_a_live_holder_is_named_and_a_released_one_followed(place: Place) -> None:
    first = hold(place / "run")
    with pytest.raises(UserError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
        hold(place / "run")
    time.sleep(0.5)  # over some renewals
    with pytest.raises(UserError, match="is writing this folder"):
        hold(place / "run")
    first.of_workers.check()
    (place / "run/made").touch()
    first.release()
    second = hold(place / "run")
    assert second.holder.generation == 2
    with pytest.raises(Superseded, match="generation 2"):
        first.of_workers.check()
    second.release()


def test_a_dead_process_is_followed_at_once(place: Place) -> None:
    process = start(place)
    assert says(process) == "holds 1"
    end(process)
    before = time.monotonic()
    second = hold(place)
    assert second.holder.generation == 2 and time.monotonic() - before < 0.5
    second.release()


def test_another_process_with_the_same_id_does_not_pass_for_it(place: Place) -> None:
    holder = hold(place)
    assert not holder.holder.is_gone()
    assert replace(holder.holder, started="1").is_gone()
    assert not replace(holder.holder, started="1", host="far-away").is_gone()
    holder.release()


def test_a_stopped_holder_is_waited_for_and_is_superseded(place: Place) -> None:
    """SIGSTOP: taken over after the time, with what is waited for said; awake, it finds itself superseded."""
    process, said = start(place), list[str]()
    assert says(process) == "holds 1" and says(process, ask=True) == "ok"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)  # beyond what passes for alive
        second = hold(place, say=said.append)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert second.holder.generation == 2
    assert str(process.pid) in said[0] and "taken over in" in said[0]
    assert says(process, ask=True) == "superseded"
    time.sleep(0.5)  # its renewals do not bring it back
    second.of_workers.check()
    assert says(process, ask=True) == "superseded"
    end(process)
    second.release()


def test_a_holder_elsewhere_is_watched(place: Place) -> None:
    """Renewed: refused, named. Silent: taken over after the time. Its Ray job over: at once."""
    there = elsewhere(place)
    before = time.monotonic()
    mine = hold(place)
    assert 0.9 < time.monotonic() - before < 5 and mine.holder.generation == 2
    mine.release()
    there = elsewhere(place, 3)

    def renew(text: str) -> None:
        places.write_json(lease._file(place, 3), asdict(replace(there, renewals=1)))

    with pytest.raises(UserError, match="process 1 on far-away"):
        hold(place, say=renew)
    elsewhere(place, 4, job="raysubmit_7")
    before = time.monotonic()
    mine = hold(place, has_ended=lambda job: job == "raysubmit_7")
    assert time.monotonic() - before < 0.5 and mine.holder.generation == 5
    mine.release()


@pytest.mark.parametrize("held_before", [False, True])
def test_of_two_at_the_same_instant_one_runs(place: Place, held_before: bool) -> None:
    """A folder that nobody held, and one whose holder is dead."""
    if held_before:
        dead = Holder(1, "t0ken", socket.gethostname(), lease._boot(), 2**22 + 1, "7")
        places.write_json(lease._file(place, 1), asdict(dead))
    at = time.time() + 1.0
    both = [start(place, at) for _ in range(2)]
    said = sorted(says(process) for process in both)
    assert said[0].startswith("holds") and said[1].startswith("refused"), said
    for process in both:
        end(process)


def test_a_late_taker_gives_way(place: Place) -> None:
    """Who looked long ago and creates an old generation finds the newer one, and does not hold."""
    elsewhere(place, 5)
    assert not lease._create(place, replace(elsewhere(place, 5), generation=3))
    assert read(place) == elsewhere(place, 5)
    assert lease._generations(place) == [5]


def test_a_folder_in_which_nothing_was_made_is_gone(place: Place) -> None:
    hold(place / "a" / "run").release()
    assert not (place / "a" / "run").exists() and not (place / "a").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    hold(tmp_path / "mine").release()
    assert list((tmp_path / "mine").iterdir()) == []


def test_who_gives_back_an_empty_folder_removes_nothing_of_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held up between its look and what it then does, while another takes over and begins."""
    mine = hold(place / "run")
    kind, iterdir = type(place), type(place).iterdir

    def held_up(self: Place) -> object:
        found = list(iterdir(self))  # type: ignore[arg-type]
        if self == place / "run":
            elsewhere(self, 2)
            places.write_bytes(self / "made", b"x")
        return iter(found)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "iterdir", held_up)
        mine.release()
    assert (place / "run" / "made").read_bytes() == b"x" and lease._generations(place / "run") == [2]


@pytest.mark.parametrize("seconds", [-30, 30])
def test_a_file_server_with_another_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """A live holder is never superseded, and a stopped one is not kept for ever by a file of the future."""
    process, now = start(tmp_path), time.time
    assert says(process) == "holds 1"
    monkeypatch.setattr(lease.time, "time", lambda: now() + seconds)
    with pytest.raises(UserError, match="is writing this folder"):
        hold(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    hold(tmp_path).release()
    end(process)


def test_a_lease_given_back_while_it_is_looked_at(tmp_path: Path) -> None:
    mine = hold(tmp_path)
    mine.release()
    assert lease._is_silent(tmp_path, mine.holder, print)


def test_a_stale_handle_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS gives it for a file that is replaced at this moment."""
    holder, read_bytes, tries = elsewhere(tmp_path), Path.read_bytes, list[Path]()

    def stale_once(self: Path) -> bytes:
        tries.append(self)
        if len(tries) == 1:
            raise OSError(errno.ESTALE, "Stale file handle", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", stale_once)
    assert read(tmp_path) == holder and len(tries) == 2


def test_renewals_outlast_a_damaged_file(place: Place) -> None:
    mine = hold(place)
    lease._file(place, 1).write_bytes(b"{")
    time.sleep(0.5)
    places.write_json(lease._file(place, 1), asdict(mine.holder))
    deadline = time.monotonic() + 5
    while (there := read(place)) is None or there.renewals == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mine.release()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file/run: cannot be written"):
        hold(tmp_path / "file" / "run")


def test_losing_it_is_told(place: Place) -> None:
    mine: Lease = hold(place)
    elsewhere(place, 2)
    assert mine.lost.wait(5)
    mine.release()
    assert read(place) == elsewhere(place, 2)
