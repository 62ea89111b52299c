"""One writer for a folder: a lease that its holder renews, and that another takes when the holder is gone.

The lease is a row of files `.lease/{generation}.json`, of which the highest counts. To take it is to create
the next one, which only one can; to renew it is to write one's own again. Nothing is locked, clocks of two
machines are never compared, and generations only grow. In an object store the file is made by a PUT that only
goes through where there is no such object.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import Place

FOLDER = ".lease"
RENEW_SECONDS = 5.0
EXPIRED_SECONDS = 30.0  # without a renewal
POLL_SECONDS = 0.5
JOIN_SECONDS = 15.0  # for a renewal on its way, at the end
_NAME = re.compile(r"(\d{6})\.json")


class Superseded(RunError):
    """Another has taken the lease: whoever gets this writes nothing more."""


@dataclass(frozen=True)
class Holder:
    """Who has a generation of the lease. `token` names this one start of the command."""

    generation: int
    token: str
    host: str
    boot: str
    pid: int
    started: str
    job: str | None = None
    renewals: int = 0
    released: bool = False

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job} (generation {self.generation})"

    def is_here(self) -> bool:
        """Whether its process id means something here."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    def is_gone(self) -> bool:
        """Whether it is known, without waiting, that nobody holds this any more."""
        return self.released or (self.is_here() and _started(self.pid) != self.started)


@dataclass(frozen=True)
class Pass:
    """What a holder's workers are given, to ask whether its lease still counts. Plain values."""

    folder: str
    generation: int
    token: str

    def check(self) -> None:
        """Superseded where another holds the lease. Opens files, since listings are cached on NFS."""
        folder = places.at(self.folder)
        with contextlib.suppress(FileNotFoundError):
            own = _read(folder, self.generation)
            if own.token == self.token and _newest(folder) == self.generation:
                return
        raise Superseded(f"{folder}: another start of the command writes this folder now: {read(folder)}")


class Lease:
    """Held by this process, and renewed by a thread of it until `release`."""

    def __init__(self, folder: Place, holder: Holder, made: Sequence[Path] = ()) -> None:
        """`made`: the folder and those above it that were not there before."""
        self.folder, self.holder, self._made = folder, holder, made
        self.lost = threading.Event()
        """Set when another was found to hold it."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def of_workers(self) -> Pass:
        """For the holder's workers."""
        return Pass(str(self.folder), self.holder.generation, self.holder.token)

    def release(self) -> None:
        """The work is over. A folder in which nothing was made is left as it was before."""
        self._ended.set()
        self._thread.join(JOIN_SECONDS)
        try:
            with places.hasty():
                self.of_workers.check()
                if [child.name for child in self.folder.iterdir()] == [FOLDER]:
                    self._vanish()
                else:
                    self._write(replace(self.holder, released=True))
        except Superseded:
            pass
        except (OSError, RunError) as error:  # the next start waits a while, no more
            print(f"warning: lease not given back: {error}", file=sys.stderr, flush=True)

    def _vanish(self) -> None:
        """Take away what this lease has brought, and nothing else: another may have come since the look."""
        _file(self.folder, self.holder.generation).unlink(missing_ok=True)
        if isinstance(self.folder, Path):
            for folder in (self.folder / FOLDER, *self._made):
                with contextlib.suppress(OSError):  # another has made something in it
                    folder.rmdir()

    def _renew(self) -> None:
        renewals = 0
        while not self._ended.wait(RENEW_SECONDS):
            try:
                with places.hasty():  # the next try is not far
                    self.of_workers.check()
                    renewals += 1
                    if not self._ended.is_set():
                        self._write(replace(self.holder, renewals=renewals))
            except Superseded:
                self.lost.set()
                return
            except (OSError, RunError) as error:
                print(f"warning: {self.folder / FOLDER}: not renewed: {error}", file=sys.stderr, flush=True)

    def _write(self, holder: Holder) -> None:
        places.write_json(_file(self.folder, holder.generation), asdict(holder), new_folder=False)


def hold(
    folder: Place,
    job: str | None = None,
    has_ended: Callable[[str], bool] = lambda job: False,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Lease:
    """Take the lease of a folder, which need not be there yet.

    A holder that renews: UserError that names it. One that is gone (released, its process dead on this
    machine, or its Ray job over as `has_ended` says): taken at once. Else it is waited for, EXPIRED_SECONDS
    without a renewal. UserError, too, where the folder cannot be written.
    """
    while True:
        there = read(folder)
        if there is not None and not there.is_gone() and not (there.job and has_ended(there.job)):
            if not _is_silent(folder, there, say):
                raise UserError(
                    f"{folder}: {there} is writing this folder: wait for it or stop it, then type the same "
                    "command again, or choose another folder"
                )
            say(f"{folder}: {there} has not renewed its lease: taken over")
        number = there.generation + 1 if there else 1
        holder = Holder(
            number, secrets.token_hex(8), socket.gethostname(), _boot(), os.getpid(),
            _started(os.getpid()), job,
        )  # fmt: skip
        made = [] if places.is_remote(folder) else [f for f in (folder, *folder.parents) if not f.exists()]
        try:
            created = _create(folder, holder)
        except places.PlaceError:
            raise
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}: {error.filename}") from None
        if not created:
            continue  # another was faster
        for old in _generations(folder):
            if old < number:
                _file(folder, old).unlink(missing_ok=True)
        return Lease(folder, holder, made)


def read(folder: Place) -> Holder | None:
    """Who has the lease, or had it last; None where nobody ever had."""
    while (number := _newest(folder)) is not None:
        with contextlib.suppress(FileNotFoundError):  # taken over at this moment
            return _read(folder, number)
    return None


def _is_silent(folder: Place, there: Holder, say: Callable[[str], None]) -> bool:
    """Watch a holder until it renews (False), or has not for EXPIRED_SECONDS, or is gone (True)."""
    since, told = time.monotonic(), 0.0
    if there.is_here() and not places.is_remote(folder):
        # Often one clock, so that a renewal just now is seen without waiting for the next. A file server may
        # have another: an age that is wrong may refuse now, but never takes a lease from a live holder.
        try:
            age = time.time() - _file(folder, there.generation).stat().st_mtime_ns / 1e9
        except FileNotFoundError:  # given back at this moment
            return True
        if 0 <= age < 2 * RENEW_SECONDS:
            return False
    while (left := since + EXPIRED_SECONDS - time.monotonic()) > 0:
        if told == 0 or time.monotonic() - told >= RENEW_SECONDS:
            told = time.monotonic()
            say(f"{folder}: waiting for {there}: no renewal yet; it is taken over in {left:.0f} s")
        time.sleep(min(POLL_SECONDS, left))
        now = read(folder)
        if now is None or now.is_gone():
            return True
        if now != there:
            return False
    return True


def _create(folder: Place, holder: Holder) -> bool:
    """Make the file of a generation with all it holds; False where it, or a later one, is there."""
    path = _file(folder, holder.generation)
    if not places.create(path, places.to_json(asdict(holder))):
        return False
    if _newest(folder) != holder.generation:  # whoever looked long ago comes too late
        path.unlink(missing_ok=True)
        return False
    return True


def _file(folder: Place, generation: int) -> Place:
    return folder / FOLDER / f"{generation:06d}.json"


def _generations(folder: Place) -> list[int]:
    try:
        names = [child.name for child in (folder / FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _newest(folder: Place) -> int | None:
    return max(_generations(folder), default=None)


def _read(folder: Place, generation: int) -> Holder:
    path = _file(folder, generation)
    try:
        return Holder(**json.loads(_bytes(path)))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); delete it if nothing writes {folder}") from None


def _bytes(path: Place, tries: int = 3) -> bytes:
    """A renewal renames another file over it; NFS then has a stale handle for who is just opening it."""
    for _ in range(tries - 1):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return path.read_bytes()


def _boot() -> str:
    """This start of this machine, and in it the space in which process ids are counted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, so that another with its id does not pass for it; '' where there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "alive"
    return "" if state == "Z" else fields[18]
