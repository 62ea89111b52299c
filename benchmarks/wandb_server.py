"""A W&B server on this machine that is no use: it refuses, answers 500, or never answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USELESS = ("refuses", "answers 500", "never answers")


@contextlib.contextmanager
def useless_server(kind: str) -> Iterator[dict[str, str]]:
    """What the environment must say for W&B to go there, with a key; `kind` is one of USELESS."""
    with contextlib.ExitStack() as stack:
        if kind == "answers 500":
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Fails))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            port = server.server_address[1]
        else:
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            if kind == "never answers":
                taken.listen(128)  # the kernel takes the connections, and nobody reads them
        yield environment(port)


def environment(port: int) -> dict[str, str]:
    """Of a process whose W&B is at this port."""
    return {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}


class _Fails(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass
