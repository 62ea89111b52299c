"""A W&B server as far as a run needs one: it knows runs by id, and keeps the rows that it is sent."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """What runs have sent; `close` makes it a server that is gone."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: dict[str, list[dict[str, Any]]] = {}
        """Run to its rows, in order."""
        self.unknown: list[str] = []
        """What it was asked and has no answer to."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """To a GraphQL request."""
        query, told = asked["query"], asked.get("variables") or {}
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        match name[1] if name else "":
            case "Viewer":
                return {
                    "viewer": {
                        "id": "v",
                        "entity": "us",
                        "username": "us",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "RunResumeStatus":
                return {"model": {**_PROJECT, "bucket": self._bucket(told["name"])}}
            case "UpsertBucket":
                run = told.get("name") or told.get("id")
                new = run not in self.history
                self.history.setdefault(run, [])
                return {"upsertBucket": {"bucket": self._bucket(run), "inserted": new}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": False}}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
        self.unknown.append(query)
        return {}

    def take(self, run: str, sent: dict[str, Any]) -> None:
        """A request of the file stream."""
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = self.history.setdefault(run, [])
                del rows[part["offset"] :]
                rows += [json.loads(line) for line in part["content"]]

    def _bucket(self, run: str) -> dict[str, Any] | None:
        if run not in self.history:
            return None
        rows = self.history[run]
        return {
            "id": "b", "name": run, "displayName": run, "description": None, "config": "{}",
            "sweepName": None, "tags": [], "project": _PROJECT,
            "summaryMetrics": json.dumps(rows[-1] if rows else {}),
            "historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0,
            "wandbConfig": '{"t": {}}',
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]",
        }  # fmt: skip


_PROJECT = {"id": "p", "name": "manta", "entity": {"id": "e", "name": "us"}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict[str, Any] = {}
        if self.path.endswith("/file_stream"):
            self.server.take(self.path.split("/")[-2], json.loads(body))
        elif self.path == "/graphql":
            answer = {"data": self.server.answer(json.loads(body))}
        # The rest is W&B's own telemetry.
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
