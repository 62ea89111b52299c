"""Where numbers go: metrics.jsonl, and beside it Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

from cluster import places
from cluster.errors import RunError
from cluster.lease import Superseded
from cluster.places import ObjectPath, Place
from llm.train.guard import finite
from llm.train.run_folder import last_line, line_of

CHECK_SECONDS = 1.0  # between two looks at the lease, at least
COPY_BYTES = 1 << 22
SEND_SECONDS = 5.0  # between two sendings of a file that has grown, at least


class Sink(Protocol):
    """Something that takes logged numbers; it must never hurt the training."""

    def log(self, values: dict[str, Any]) -> None: ...

    def go_back(self, step: int) -> None:
        """The steps after this one will come again."""
        ...

    def finish(self, exit_code: int) -> None: ...


class LineFile:
    """A file of JSON lines that grows. Each is flushed: a kill costs at most the one being written.

    An object store appends to nothing. There the file grows on this machine and is sent whole: after
    SEND_SECONDS, or later where sending takes long (it may take a twentieth of the time), by `send` before
    each checkpoint is committed, and at the end. So what a kill takes away are lines that come again.
    """

    def __init__(
        self, path: Place, resumed_step: int, check_writer: Callable[[], None] = lambda: None
    ) -> None:
        """`check_writer` raises Superseded where another start of the command writes this run by now."""
        check_writer()
        truncate_after(path, resumed_step)
        self._check_writer, self._checked = check_writer, 0.0
        self._file: TextIO | None = None
        self._sender: _Sender | None = None
        if isinstance(path, ObjectPath):
            self._folder = tempfile.TemporaryDirectory(prefix="manta-")
            file = Path(self._folder.name) / path.name
            file.write_bytes(path.read_bytes() if path.exists() else b"")
            self._sender = _Sender(file, path, check_writer)
            path = file
        self._path = path

    def write(self, values: dict[str, Any]) -> None:
        """Add a line. Superseded where it has been found that another writes."""
        if self._sender is None:
            # A commit asks by itself; what a start that was followed writes in this time, the other replaces.
            if time.monotonic() - self._checked > CHECK_SECONDS:
                self._check_writer()
                self._checked = time.monotonic()
        elif self._sender.superseded is not None:
            raise self._sender.superseded
        if self._file is None:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def go_back(self, step: int) -> None:
        """Drop the lines of later steps: they come again."""
        self._check_writer()
        if self._file is not None:
            self._file.close()
            self._file = None
        with self._sender.changed() if self._sender is not None else contextlib.nullcontext():
            truncate_after(self._path, step)

    def last(self) -> dict[str, Any] | None:
        """The last line that is kept; None where there is none."""
        return last_line(self._path)

    def send(self) -> None:
        """Whoever reads the file finds every line from now on."""
        if self._sender is not None:
            self._sender.send()
        elif self._file is not None:
            os.fsync(self._file.fileno())  # a checkpoint that outlives its machine finds its lines

    def close(self) -> None:
        """The last lines are sent; a warning where that cannot be."""
        if self._file is not None:
            self._file.close()
        if self._sender is not None:
            self._sender.close()
            self._folder.cleanup()


class _Sender:
    """Sends a growing local file to an object store, in a thread."""

    def __init__(self, file: Path, to: ObjectPath, check_writer: Callable[[], None]) -> None:
        self.file, self.to, self.check_writer = file, to, check_writer
        self.superseded: Superseded | None = None
        self._sent = file.stat().st_size
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"send-{to.name}", daemon=True)
        self._thread.start()

    def send(self) -> None:
        """Send it where it has grown. PlaceError, or Superseded where another writes the run."""
        with self._lock:
            size = self.file.stat().st_size
            if size != self._sent:
                self.check_writer()
                self.to.write_file(self.file)
                self._sent = size

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """While the file is changed otherwise than by growing: nothing is sent, and all of it afterwards."""
        with self._lock:
            yield
            self._sent = -1

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._try()

    def _run(self) -> None:
        wait = SEND_SECONDS
        while not self._end.wait(wait) and self.superseded is None:
            began = time.monotonic()
            self._try()
            wait = max(SEND_SECONDS, 20 * (time.monotonic() - began))

    def _try(self) -> None:
        try:
            self.send()
        except Superseded as error:
            self.superseded = error
        except RunError as error:  # PlaceError, and what the lease says of a damaged file
            print(f"warning: {error}", file=sys.stderr, flush=True)


class MetricsFile(LineFile):
    """metrics.jsonl: a line for each logged step."""

    def log(self, values: dict[str, Any]) -> None:
        self.write(values)

    def finish(self, exit_code: int) -> None:
        self.close()


class Tracker:
    """Sends each logged step to all sinks; what is not finite goes as null, since JSON knows no NaN."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.sinks = sinks

    def log(self, values: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.log(finite(values))

    def log_late(self, rows: Iterable[dict[str, Any]]) -> None:
        """Numbers of steps that lie back: to all but metrics.jsonl, whose lines are in the order of steps."""
        for row in rows:
            for sink in self.sinks:
                if not isinstance(sink, LineFile):
                    sink.log(finite(row))

    def go_back(self, step: int) -> None:
        for sink in self.sinks:
            sink.go_back(step)

    def finish(self, exit_code: int) -> None:
        for sink in self.sinks:
            sink.finish(exit_code)


def truncate_after(path: Place, step: int) -> None:
    """Drop lines after the step that a run resumes from: they will come again. A torn last line goes, too.

    The file is a new one afterwards: what another start of the command still has open is no longer this one.
    """
    if not path.exists():
        return
    kept = 0
    with places.open_read(path) as file:
        for line in file:
            if not line.endswith(b"\n") or line_of(path, line)["step"] > step:
                break
            kept += len(line)

    def copy(to: places.Sink) -> None:
        with places.open_read(path) as file:
            for start in range(0, kept, COPY_BYTES):
                to.write(file.read(min(COPY_BYTES, kept - start)))

    places.write_with(path, copy, kept)
