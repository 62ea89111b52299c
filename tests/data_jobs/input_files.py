"""Input files of every format with the same documents, for tests."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Row = dict[str, Any]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}


def jsonl(rows: Sequence[Row]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def csv_bytes(rows: Sequence[Row], delimiter: str = ",") -> bytes:
    """Every field quoted where it must be."""
    names = list(rows[0])
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    # A lone carriage return is quoted, too, as RFC 4180 has it; older versions of the module do not.
    for row in rows:
        quoted = [str(row[name]) for name in names]
        if any("\r" in value for value in quoted):
            fields = ['"' + value.replace('"', '""') + '"' for value in quoted]
            out.write(delimiter.join(fields) + "\n")
        else:
            writer.writerow(quoted)
    return out.getvalue().encode()


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=pa.schema([(name, pa.string()) for name in rows[0]]))


def parquet(rows: Sequence[Row], group: int = 10) -> bytes:
    out = io.BytesIO()
    pq.write_table(table(rows), out, row_group_size=group, write_page_checksum=True)
    return out.getvalue()


def arrow(rows: Sequence[Row], kind: str = "file", batch: int = 10) -> bytes:
    out = io.BytesIO()
    whole = table(rows)
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(out, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=batch)
    return out.getvalue()


def page(text: str) -> bytes:
    """A page whose main content is the text."""
    paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
    return (
        f"<!doctype html><html><head><title>t</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<main><article>{paragraphs}</article></main><footer>Imprint</footer></body></html>"
    ).encode()


def warc_record(kind: str, body: bytes, url: str = "http://a.example/", **headers: str) -> bytes:
    named = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{abs(hash(body)) % 10**12:012d}>",
        "WARC-Target-URI": url,
        "WARC-Date": "2026-01-02T03:04:05Z",
        "Content-Type": "application/http; msgtype=response" if kind == "response" else "text/plain",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in named.items()]
    head = "\r\n".join(["WARC/1.0", *lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def http(
    body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8", more: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def warc(texts: Sequence[str]) -> bytes:
    """A crawl: an info record, then a request and a response for each text."""
    parts = [warc_record("warcinfo", b"software: a test\r\n")]
    for number, text in enumerate(texts):
        url = f"http://a.example/{number}"
        parts.append(warc_record("request", b"GET / HTTP/1.1\r\n\r\n", url))
        parts.append(warc_record("response", http(page(text)), url))
    return b"".join(parts)


def wet(texts: Sequence[str]) -> bytes:
    parts = [warc_record("warcinfo", b"software: a test\r\n")]
    parts += [
        warc_record("conversion", text.encode(), f"http://a.example/{number}")
        for number, text in enumerate(texts)
    ]
    return b"".join(parts)


def write_source(folder: Path, kind: str, texts: Sequence[str]) -> dict[str, Any]:
    """Files of a source of this kind with these texts; what a recipe says of it, less its name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text": text} for text in texts]
    format, _, variant = kind.partition(" ")
    said: dict[str, Any] = {"path": str(folder), "format": format}
    if format in ("code", "html") or kind == "text":
        for number, text in enumerate(texts):
            end, data = {
                "code": ("py", text.encode()),
                "html": ("html", page(text)),
                "text": ("txt", text.encode()),
            }[format]
            (folder / f"{number:03}.{end}").write_bytes(data)
        return said
    end = ""
    if format == "jsonl":
        data, end = jsonl(rows), variant
    elif format == "text":
        data, said["per"] = "".join(text + "\n" for text in texts).encode(), "line"
        format = "txt"
    elif format == "csv":
        data = csv_bytes([{"id": str(number), **row} for number, row in enumerate(rows)])
    elif format == "parquet":
        data = parquet(rows, group=3)
    elif format == "arrow":
        data = arrow(rows, variant or "file", batch=3)
    elif format == "warc":
        data, end = warc(texts), ".gz"
    else:
        data = wet(texts)
    (folder / f"all.{format}{end}").write_bytes(PACK[end](data))
    return said


KINDS = [
    "jsonl", "jsonl .gz", "jsonl .zst", "jsonl .xz", "text", "text line", "code", "parquet", "csv",
    "arrow file", "arrow stream", "html", "warc", "wet",
]  # fmt: skip
