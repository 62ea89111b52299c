"""Paths in an object store: as much of pathlib as is used here. The one file that imports obstore.

An object is there whole or not at all, and what is written can be listed at once. There are no folders, only
names with slashes in them; nothing is renamed or appended to. `places.py` says how one works with that.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from cluster.errors import RunError, UserError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
TRIES = 5  # of a whole operation; each request in it is tried again by obstore, too
HASTY_TRIES = 2
PAUSE_SECONDS = 0.5  # before the second try; doubled for each one after it
PART_BYTES = 8 << 20  # of an object that is written in parts; at most 10,000 of them
WRITERS = 4  # parts on their way at once
READ_BYTES = 32 << 20  # of one request for a large object
COPY_BYTES = 5 << 30  # the largest object that S3 copies

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
T = TypeVar("T")


_hasty = ContextVar("hasty", default=False)


@contextmanager
def hasty() -> Iterator[None]:
    """In it an operation gives up after seconds, not minutes: for what is done again soon, or at an exit."""
    before = _hasty.set(True)
    try:
        yield
    finally:
        _hasty.reset(before)


class PlaceError(RunError, OSError):
    """A place does not do what it is asked. `strerror` says what was tried, and what to check."""

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class Stat(NamedTuple):
    """Size and time of an object, under the names of os.stat. The time is by the clock of the store."""

    st_size: int
    st_mtime_ns: int
    etag: str = ""
    """What the store says that the object holds; empty where it says nothing."""

    @classmethod
    def of(cls, meta: Any) -> Stat:
        """Of what obstore says. Times are whole seconds: a listing knows finer ones than a HEAD."""
        etag = (meta.get("e_tag") or "").strip('"')
        return cls(meta["size"], int(meta["last_modified"].timestamp()) * 10**9, etag)


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True, order=True)
class ObjectPath:
    """`s3://bucket/a/b`: an object, or the objects under a name."""

    root: str
    """Scheme and bucket."""
    key: str
    """The rest, without a slash at its ends; '' for the bucket itself."""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.root, "/".join(filter(None, [self.key, str(name).strip("/")])))

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, self.key.rpartition("/")[0])

    @property
    def parents(self) -> list[ObjectPath]:
        parts = self.key.split("/")
        return [ObjectPath(self.root, "/".join(parts[:end])) for end in range(len(parts) - 1, -1, -1)]

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def absolute(self) -> ObjectPath:
        return self

    def resolve(self) -> ObjectPath:
        return self

    def read_bytes(self) -> bytes:
        """The whole object. FileNotFoundError where there is none."""
        return self._ask("reading", lambda store, obs: bytes(obs.get(store, self.key).bytes()))

    def read_range(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer where the object ends before."""
        if length <= 0:
            return b""
        return self._ask(
            "reading", lambda store, obs: bytes(obs.get_range(store, self.key, start=start, length=length))
        )

    def read_tail(self, length: int) -> bytes:
        """The last bytes."""

        def read(store: ObjectStore, obs: Any) -> bytes:
            try:
                return bytes(obs.get(store, self.key, options={"range": {"suffix": length}}).bytes())
            except obs.exceptions.BaseError:  # an empty object has no last bytes: status 416
                if obs.head(store, self.key)["size"]:
                    raise
                return b""

        return self._ask("reading", read)

    def write_bytes(self, data: bytes) -> None:
        """One PUT: whole or not at all."""
        self._ask("writing", lambda store, obs: obs.put(store, self.key, data))

    def create(self, data: bytes) -> bool:
        """Write what is not there yet; False where it is. Of several at once one gets True."""
        try:
            self._ask("writing", lambda store, obs: obs.put(store, self.key, data, mode="create"))
        except FileExistsError:
            # The answer to a PUT that had its effect may have been lost, and the next try finds it.
            try:
                return self.read_bytes() == data
            except FileNotFoundError:  # it was another's, who has deleted it since
                return False
        return True

    def write_file(self, file: Path) -> None:
        """A local file to this object."""
        part = max(PART_BYTES, file.stat().st_size // 9000)

        def put(store: ObjectStore, obs: Any) -> None:
            obs.put(store, self.key, file, chunk_size=part, max_concurrency=WRITERS)

        try:
            self._ask("writing", put)
        except FileNotFoundError:  # to write an object none need be there
            raise FileNotFoundError(2, "is gone while it is being sent", str(file)) from None

    def write_with(self, body: Callable[[Sink], T], size: int) -> T:
        """What `body` writes, about `size` bytes, in parts. `body` is called again after a fault."""

        def write(store: ObjectStore, obs: Any) -> T:
            part = max(PART_BYTES, size // 9000)
            sink = obs.open_writer(store, self.key, buffer_size=part, max_concurrency=WRITERS)
            made = body(sink)
            sink.close()  # only now it is there; what was left before is never seen
            return made

        return self._ask("writing", write)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        with suppress(FileNotFoundError):
            self.stat()
            return True
        return False

    def is_dir(self) -> bool:
        return bool(
            self._ask("listing", lambda store, obs: next(obs.list(store, self.key, chunk_size=1), []))
        )

    def stat(self) -> Stat:
        """FileNotFoundError where there is no object of this name."""
        if not self.key:
            raise FileNotFoundError(str(self))
        return Stat.of(self._ask("looking at", lambda store, obs: obs.head(store, self.key)))

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and 'folders' right under this one, by name; none where there is nothing."""
        found = self._ask("listing", lambda store, obs: obs.list_with_delimiter(store, self.key or None))
        names = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        yield from (ObjectPath(self.root, name) for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        first, _, rest = pattern.partition("/")
        for child in self.iterdir():
            if fnmatch.fnmatchcase(child.name, first):
                yield from child.glob(rest) if rest else [child]

    def sizes(self) -> dict[str, int]:
        """Relative name to size of everything under this one."""
        return {name: stat.st_size for name, stat in self.stats().items()}

    def stats(self) -> dict[str, Stat]:
        """Relative name to what is known of everything under this one, from one listing."""
        found = self._ask(
            "listing",
            lambda store, obs: [item for part in obs.list(store, self.key or None) for item in part],
        )
        return {item["path"][len(self.key) :].lstrip("/"): Stat.of(item) for item in found}

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._ask("deleting", lambda store, obs: obs.delete(store, self.key))
        except FileNotFoundError:  # S3 does not tell
            if not missing_ok:
                raise

    def delete_all(self) -> None:
        """Everything under this name."""
        keys = [(self / name).key for name in self.sizes()]
        for at in range(0, len(keys), 1000):
            self._delete(keys[at : at + 1000])

    def move(self, to: ObjectPath) -> None:
        """Everything under this name, or the object of it, to another: copied in the store, then deleted."""
        self.check_movable()
        names = list(self.sizes()) or [""]
        for name in names:
            (self / name)._copy(to / name)
        for name in names:
            (self / name).unlink(missing_ok=True)

    def check_movable(self) -> None:
        """UserError where the store copies not all that is under this name: said before anything is moved."""
        for name, size in self.sizes().items() if self.root.startswith("s3:") else ():
            if size > COPY_BYTES:
                raise UserError(
                    f"{self / name}: {size:,} bytes, more than the {COPY_BYTES:,} that S3 copies at once, so "
                    f"nothing of {self} was moved: choose another place, or move it by `aws s3 mv`"
                )

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """There are no folders."""

    def touch(self) -> None:
        self.write_bytes(b"")

    def _copy(self, to: ObjectPath) -> None:
        self._ask("copying", lambda store, obs: obs.copy(store, self.key, to.key))

    def _delete(self, keys: list[str]) -> None:
        self._ask("deleting", lambda store, obs: obs.delete(store, keys))

    def _ask(self, doing: str, call: Callable[[Any, Any], T]) -> T:
        """Do it, again after a fault. FileNotFoundError, FileExistsError, else PlaceError."""
        import obstore
        from obstore import exceptions

        brief = _hasty.get()
        tries = min(TRIES, HASTY_TRIES) if brief else TRIES
        began, store = time.monotonic(), _store(self.root, os.environ.get("AWS_ENDPOINT_URL"), brief)
        for number in range(tries):
            try:
                return call(store, obstore)
            except (exceptions.BaseError, OSError) as error:
                last = error
            if "NoSuchBucket" in str(last):
                raise PlaceError(
                    str(self), f"{doing} failed: there is no bucket {self.root}; check its name"
                ) from None
            if isinstance(last, (exceptions.NotFoundError, FileNotFoundError)):
                raise FileNotFoundError(2, "there is no such object", str(self)) from None
            if isinstance(last, (exceptions.AlreadyExistsError, FileExistsError)):
                raise FileExistsError(17, "there is such an object", str(self)) from None
            if isinstance(last, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
                raise PlaceError(
                    str(self),
                    f"{doing} is not allowed ({_short(last)}); check credentials and the bucket's policy",
                ) from None
            if number < tries - 1:
                _pause.wait(PAUSE_SECONDS * 2**number)
        raise PlaceError(
            str(self),
            f"{doing} failed {tries} times in {time.monotonic() - began:.0f} s ({_short(last)}); check the "
            f"network, the address of the service and its state, then type the same command again",
        ) from None


_pause = threading.Event()  # never set: a sleep that a test can end


def parse(uri: str) -> ObjectPath | None:
    """The path of a URI; None where the text is a path of this machine. UserError for another scheme."""
    match = _URI.fullmatch(uri)
    if match is None:
        return None
    bucket, _, key = match[2].partition("/")
    scheme = match[1].lower()
    if scheme not in SCHEMES or not bucket:
        known = ", ".join(f"{scheme}://bucket/name" for scheme in SCHEMES)
        raise UserError(f"'{uri}': no place that is known: give a path, or {known}")
    parts = [part for part in key.split("/") if part]
    if {".", ".."} & set(parts):
        raise UserError(f"'{uri}': a name in an object store has no . and .. in it")
    return ObjectPath(f"{scheme}://{bucket}", "/".join(parts))


@lru_cache(maxsize=16)
def _store(root: str, endpoint: str | None, brief: bool = False) -> ObjectStore:
    """The client of a bucket: credentials, region and endpoint as the environment has them (AWS_...)."""
    from obstore.store import from_url

    options: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(seconds=5 if brief else 60),
            "connect_timeout": timedelta(seconds=2 if brief else 5),
            "allow_http": bool(endpoint and endpoint.startswith("http:")),
        },
        "retry_config": {
            "max_retries": 1 if brief else 4,
            "retry_timeout": timedelta(seconds=5 if brief else 30),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    }
    if root.startswith("s3:") and (provider := _profile()):
        options["credential_provider"] = provider
    return from_url(root, **options)


def _profile() -> Any:
    """Credentials of AWS' shared files, where the environment has none and there are such files."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    files = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config"
    if "AWS_PROFILE" not in os.environ and not any(Path(file).expanduser().exists() for file in files):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise UserError(
            "the credentials in ~/.aws are read with boto3, which is not installed: make setup EXTRAS=aws, "
            "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    return Boto3CredentialProvider()


def _short(error: BaseException) -> str:
    """The first line of what went wrong, without what the library prints for itself."""
    text = str(error).strip().split("\n")[0]
    return text if len(text) <= 240 else text[:237] + "..."
