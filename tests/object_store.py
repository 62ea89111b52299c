"""An S3 on this machine that fails on purpose: moto's server, each so manieth request of which goes wrong.

`python -m tests.object_store` says its address on stdout, and ends with its standard input. The failures
take turns: status 500, status 503, the connection dropped before anything is done, and dropped after it was
done, so that the answer is lost. `GET /_faults?every=20` sets how many (0: none), `GET /_next?fault=503` what
the next PUT comes to; `GET /_log` gives the requests, and forgets them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

FAULTS = ("500", "503", "dropped before", "dropped after")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class S3:
    """A running server, as a test sees it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.env = {"AWS_ENDPOINT_URL": address, **KEYS}

    def new_bucket(self) -> str:
        """The URI of an empty bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        request = urllib.request.Request(f"{self.address}/{name}", method="PUT")
        who = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
        request.add_header("Authorization", who)
        urllib.request.urlopen(request).close()
        return f"s3://{name}"

    def fail(self, every: int) -> int:
        """From now on; returns how many requests have failed before."""
        return int(self._get(f"_faults?every={every}"))

    def fail_next_put(self, fault: str) -> None:
        """One of FAULTS."""
        self._get(f"_next?fault={urllib.parse.quote(fault)}")

    @contextlib.contextmanager
    def failing(self, every: int) -> Iterator[None]:
        """One request in `every` fails; there must be some, or the test shows nothing."""
        before = self.fail(every)
        try:
            yield
        except BaseException:
            self.fail(0)
            raise
        after = self.fail(0)
        assert after - before >= len(FAULTS), f"only {after - before} requests failed"

    def log(self) -> list[tuple[str, str, str]]:
        """(method, path, range) of the requests since the last call."""
        return [tuple(row) for row in json.loads(self._get("_log"))]

    def _get(self, what: str) -> str:
        with urllib.request.urlopen(f"{self.address}/{what}") as answer:
            text: str = answer.read().decode()
        return text


@contextlib.contextmanager
def start() -> Iterator[S3]:
    """The server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.object_store"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield S3(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


class _Failing:
    """The WSGI application with faults in it."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app, self.every, self.requests, self.failed = app, 0, 0, 0
        self.next_put = ""
        self.log: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in ("/_faults", "/_next", "/_log"):
            return self._control(path, environ["QUERY_STRING"], start_response)
        with self.lock:
            self.log.append((environ["REQUEST_METHOD"], path, environ.get("HTTP_RANGE", "")))
            self.requests += 1
            fault = ""
            if self.next_put and environ["REQUEST_METHOD"] == "PUT":
                fault, self.next_put = self.next_put, ""
            elif self.every and self.requests % self.every == 0:
                fault = FAULTS[self.failed % len(FAULTS)]
                self.failed += 1
        if not fault:
            return self.app(environ, start_response)
        if fault == "dropped after":
            list(self.app(environ, lambda *_: lambda data: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault.startswith("dropped"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # nothing of what follows arrives
        start_response(f"{fault if fault.isdigit() else 500} On purpose", [("Content-Length", "0")])
        return [b""]

    def _control(self, path: str, query: str, start_response: Callable[..., Any]) -> list[bytes]:
        with self.lock:
            if path == "/_faults":
                self.every = int(query.partition("=")[2])
                text = str(self.failed)
            elif path == "/_next":
                text = self.next_put = urllib.parse.unquote(query.partition("=")[2])
            else:
                text, self.log = json.dumps(self.log), []
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text.encode()]


def main() -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    os.environ.update(KEYS)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = _Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
