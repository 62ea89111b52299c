"""Pages and crawls: which records are documents, what is left out and counted, what damage costs."""

from __future__ import annotations

import gzip
import importlib.util
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from data_jobs.reading.html_text import MAX_LEVELS, decode_page, nesting_of
from data_jobs.reading.inputs import list_files
from data_jobs.reading.missing import is_left_out
from tests.data_jobs.conftest import make_texts, prepare, read, settings_for, source_of
from tests.data_jobs.input_files import http, page, warc, warc_record, wet

TEXTS = [
    "The first paragraph says what a harbour is and why ships come to it in winter.\n\nThe second one, too.",
    "Another page, with a text of its own that goes on for a while so that it is content.",
]


def write(folder: Path, data: bytes, name: str = "in.warc") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pages_of_a_crawl(tmp_path: Path, pack: Any) -> None:
    data = warc(TEXTS)
    records, rejects, reading = read(write(tmp_path, pack(data)), format="warc")
    assert [record.metadata for record in records] == [
        {"url": f"http://a.example/{n}", "date": "2026-01-02T03:04:05Z"} for n in range(2)
    ]
    for record, text in zip(records, TEXTS, strict=True):
        assert "".join(record.text.split()) == "".join(text.split())
        assert data[record.place.offset :].startswith(b"WARC/1.0\r\nWARC-Type: response")
    assert [reject.reason for reject in rejects] == ["other_record"] * 3
    assert all(is_left_out(source_of("x", format="warc"), reject.reason) for reject in rejects)
    assert reading.bytes_read == len(data)
    assert sum(item.raw_bytes for item in (*records, *rejects)) == len(data) - 4 * 5


def test_members_of_their_own(tmp_path: Path) -> None:
    """As crawls are stored: a gzip member for each record."""
    parts = [part for text in TEXTS for part in (warc([text]),)]
    path = write(tmp_path, b"".join(gzip.compress(part) for part in parts))
    assert len(read(path, format="warc")[0]) == 2


def test_texts_of_a_crawl(tmp_path: Path) -> None:
    records, rejects, _ = read(write(tmp_path, wet(TEXTS)), format="wet", metadata=["Content-Type"])
    assert [record.text for record in records] == TEXTS
    assert records[0].metadata["Content-Type"] == "text/plain"
    assert [reject.reason for reject in rejects] == ["other_record"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (warc_record("response", http(page("x"), "404 Not Found")), "http_status"),
        (warc_record("response", http(b"%PDF", kind="application/pdf")), "not_html"),
        (warc_record("response", b"1.2.3.4", Content_Type="text/dns"), "not_html"),
        (
            warc_record("response", http(b"%PDF", kind="application/pdf", more="Content-Encoding: x\r\n")),
            "not_html",
        ),
        (warc_record("revisit", http(b"")), "other_record"),
        (warc_record("response", b"no header of HTTP at all"), "!"),
        (b"garbage that is no record\r\nand more of it\r\n\r\n", "!invalid_warc"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\nno length\r\n\r\n", "!invalid_warc"),
        (
            warc_record("response", http(page("short"))).replace(
                b"Content-Length: ", b"Content-Length: 1", 1
            ),
            "!",
        ),
        (
            warc_record("response", http(page("longer"))).replace(
                b"WARC-Date: 2", b"Content-Length: 40\r\nWARC-Date: 2", 1
            ),
            "!invalid_warc",
        ),
        (warc_record("response", http(page("x" * 20_000))), "!too_long"),
        (warc_record("response", http(b"<div>" * 2_500)), "!too_nested"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_other_records_cost_themselves(tmp_path: Path, record: bytes, reason: str, at: int) -> None:
    parts = [
        warc_record("response", http(page(text)), f"http://a.example/{n}") for n, text in enumerate(TEXTS)
    ]
    data = b"".join([*parts[:at], record, *parts[at:]])
    records, rejects, reading = read(write(tmp_path, data), 4096, format="warc")
    assert [record.metadata["url"] for record in records] == ["http://a.example/0", "http://a.example/1"]
    (reject,) = rejects
    assert reject.reason == reason.strip("!") or reason == "!"
    assert is_left_out(source_of("x", format="warc"), reject.reason) == (reason[0] != "!")
    assert reject.place.offset == sum(map(len, parts[:at]))
    assert reading.bytes_read == len(data) and not reading.damage


def test_a_file_that_ends_inside_of_a_record(tmp_path: Path) -> None:
    data = warc(TEXTS)
    records, rejects, _ = read(write(tmp_path, data[:-200]), format="warc")
    assert len(records) == 1 and rejects[-1].reason == "damaged_file"
    packed = gzip.compress(data)
    records, rejects, reading = read(write(tmp_path, packed[:-40]), format="warc")
    assert rejects[-1].reason == "damaged_file" and reading.damage
    assert [reject.reason for reject in rejects].count("damaged_file") == 1


def test_chunked_and_compressed_pages(tmp_path: Path) -> None:
    body = page(TEXTS[0])
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    packed = gzip.compress(body)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    parts = [
        warc_record("response", head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks),
        warc_record("response", head + b"Content-Encoding: gzip\r\n\r\n" + packed),
    ]
    records, *_ = read(write(tmp_path, b"".join(parts)), format="warc")
    assert len(records) == 2 and records[0].text == records[1].text and "harbour" in records[0].text


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Encoding: gzip",
        b"Content-Encoding: br",
        b"Content-Encoding: utf-8",
        b"Transfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\r\n  "])
def test_a_body_that_is_stored_decoded(tmp_path: Path, header: bytes, begin: bytes) -> None:
    """Under the headers of what was sent, as in many crawls; and a name that is no encoding."""
    record = warc_record("response", HEAD + header + b"\r\n\r\n" + begin + page(TEXTS[0]))
    (record_read, other), rejects, _ = read(write(tmp_path, record + warc(TEXTS[1:])), format="warc")
    assert "harbour" in record_read.text and "Another page" in other.text
    assert {reject.reason for reject in rejects} == {"other_record"}


def test_a_body_that_cannot_be_decoded_costs_itself(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(page("\n\n".join(make_texts(30)))))
    packed[60:70] = b"\xff" * 10
    bodies = {
        b"Content-Encoding: gzip": bytes(packed),
        b"Content-Encoding: br": b"\x81\xff\x00\xfe" * 30,
        b"Transfer-Encoding: chunked": b"9999\r\n" + page("cut"),
    }
    records = [warc_record("response", HEAD + header + b"\r\n\r\n" + body) for header, body in bodies.items()]
    data = b"".join(records) + warc(TEXTS[1:])
    (document,), rejects, _ = read(write(tmp_path, data), format="warc")
    assert "Another page" in document.text
    bad = [reject for reject in rejects if reject.reason == "invalid_warc"]
    assert len(bad) == 3 and all("not what its HTTP header says" in reject.detail for reject in bad)


def test_a_body_that_stands_for_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    packed = gzip.compress(b"<p>" + b"x" * (200 << 20), 1)
    data = warc_record("response", HEAD + b"Content-Encoding: gzip\r\n\r\n" + packed) + warc(TEXTS)
    path = write(tmp_path, data)
    tracemalloc.start()
    records, rejects, _ = read(path, format="warc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records) == 2 and [r.reason for r in rejects if r.reason != "other_record"] == ["too_long"]
    assert peak < 100 << 20


def test_a_long_page_in_many_chunks_is_whole(tmp_path: Path) -> None:
    text = "\n\n".join(make_texts(2000))
    packed = gzip.compress(page(text))
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (packed[at : at + 777] for at in range(0, len(packed), 777))
    )
    header = b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    path = write(tmp_path, warc_record("response", HEAD + header + chunks + b"0\r\n\r\n"))
    (record,), _, _ = read(path, format="warc")
    assert "".join(record.text.split()) == "".join(text.split())


def test_the_ledger_of_a_crawl(tmp_path: Path) -> None:
    """What is left out stands in it, and is no failure: none of it counts for max_bad_fraction."""
    texts = [f"{text} And this is page {n} of them." for n, text in enumerate(make_texts(40))]
    path = write(tmp_path, gzip.compress(warc(texts)), "a.warc.gz")
    settings = settings_for(
        path, source={"format": "warc"}, max_bad_fraction=0.0, on_bad="fail", val_fraction=0.0,
        tokenizer={"vocab_size": 400},
    )  # fmt: skip
    manifest = prepare(settings, tmp_path / "out")
    documents = manifest["counts"]["documents"]
    assert documents["in"] == 81 and documents["dropped"] == {"other_record": 41}
    assert documents["out"] == 40
    assert manifest["sources"][0]["metadata"] == ["date", "url"]


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("größe".encode(), None, "größe"),
        ("größe".encode("latin-1"), "iso-8859-1", "größe"),
        ("\ufeffgröße".encode(), "iso-8859-1", "größe"),
        ("größe".encode("utf-16"), None, "größe"),
        ("海が静か".encode("shift_jis"), "Shift_JIS", "海が静か"),
        (
            b'<meta charset="windows-1251">' + "море".encode("cp1251"),
            None,
            '<meta charset="windows-1251">море',
        ),
        ("größe".encode(), "no such thing", "größe"),
        (b"a\xffb", "utf-8", "a\ufffdb"),
    ],
)
def test_encodings(data: bytes, charset: str | None, text: str) -> None:
    assert decode_page(data, charset) == text


def test_html_files(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        write(tmp_path, page(text), f"{number}.html")
    write(tmp_path, gzip.compress(page(TEXTS[0])), "2.htm.gz")
    (tmp_path / "z.txt").write_text("no page")
    source = source_of(tmp_path, format="html")
    assert [file.name for file in list_files([source])] == ["0.html", "1.html", "2.htm.gz"]
    (record,), rejects, reading = read(tmp_path / "0.html", format="html")
    assert "harbour" in record.text and "Imprint" not in record.text and "Home" not in record.text
    assert record.metadata == {"path": "0.html"} and not rejects
    assert reading.bytes_read == record.raw_bytes == (tmp_path / "0.html").stat().st_size
    _, (reject,), _ = read(write(tmp_path, page("x" * 9_000), "long.html"), 1024, format="html")
    assert reject.reason == "too_long"


def test_a_page_that_is_nested_without_end_takes_no_time(tmp_path: Path) -> None:
    _, (reject,), _ = read(write(tmp_path, b"<div>" * 200_000, "a.html"), format="html")
    assert reject.reason == "too_nested"
    flat = b"<p>one<br>" * 5_000 + b"<div>x</div>" * 5_000 + b"<b>" * 5_000 + b"text"
    assert nesting_of(flat)[0] <= 1
    (record,), rejects, _ = read(write(tmp_path, flat, "b.html"), format="html")
    assert not rejects and "text" in record.text


def test_pages_are_bounded_by_all_of_their_levels(tmp_path: Path) -> None:
    """Each level costs every element in it a step, and the text of every list item two blanks."""
    begin, end, few = b"<ul><li>some words", b"</li></ul>", b"<main><p>some words</p>"
    most, levels = nesting_of(few + begin * 1_000 + b"<li>more</li>" * 9_000 + end * 1_000)
    assert most == 1_001 and levels == pytest.approx(1_000 * 10_000, rel=0.01)
    lists = (begin * 1_000 + end * 1_000) * 100
    records, rejects, _ = read(write(tmp_path, few + lists, "a.html"), format="html")
    assert not records and [reject.reason for reject in rejects] == ["too_nested"]
    assert "others, all added up" in rejects[0].detail
    wide = few + b"<ul><li>x</li></ul>" * 20_000 + begin * 300 + b"<li>more</li>" * 3_000 + end * 300
    assert 300 * 3_000 < nesting_of(wide)[1] < MAX_LEVELS
    (record,), rejects, _ = read(write(tmp_path, wide, "b.html"), format="html")
    assert not rejects and "some words" in record.text


def test_what_is_left_open_is_opened_again_by_the_parser() -> None:
    """In each paragraph all that differ and stand before it; of equal ones three."""
    paragraphs = [b"<p><font id=%d>x" % number for number in range(500)]
    _, levels = nesting_of(b"".join(paragraphs))
    assert levels == pytest.approx(sum(n * n / 2 for n in range(500)), rel=0.02) and levels > MAX_LEVELS
    assert nesting_of(b"</font>".join(paragraphs))[1] < 5_000
    assert nesting_of(b"<p><font color=red>x" * 5_000)[1] < 100_000
    closed = b"".join(b"<p>x <b>y</b> <i>z</i></p>" for _ in range(400))
    assert (
        nesting_of(closed) == (0, 0) != nesting_of(b"<b id=1>" * 5 + closed)
    )  # not looked into without need


def test_text_that_is_longer_than_its_page_is_counted(tmp_path: Path) -> None:
    """A page in a smaller encoding: bytes in + added = out + removed."""
    text = "Größe über Maß ä ö ü " * 40
    data = page(text).decode().replace("<head>", '<head><meta charset="iso-8859-1">').encode("latin-1")
    records, _, reading = read(write(tmp_path, data, "a.html"), format="html")
    size = sum(len(record.text.encode()) for record in records)
    assert reading.bytes_read + reading.bytes_added >= size > 0
    settings = settings_for(
        tmp_path / "a.html", source={"format": "html"}, val_fraction=0.0, tokenizer={"vocab_size": 330}
    )
    manifest = prepare(settings, tmp_path / "out")
    counted = next(stage for stage in manifest["stages"] if stage["stage"] == "read")["bytes"]
    assert counted["removed"] >= 0 and counted["in"] + counted["added"] == counted["out"] + counted["removed"]


@pytest.mark.skipif(importlib.util.find_spec("trafilatura") is None, reason="is not installed")
def test_the_other_extractor(tmp_path: Path) -> None:
    text = "\n\n".join(make_texts(12))
    records, _, _ = read(write(tmp_path, page(text), "a.html"), format="html", extractor="trafilatura")
    assert "Report 3" in records[0].text and "Imprint" not in records[0].text


def test_an_extractor_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, page("x"), "a.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="trafilatura is not installed: make setup EXTRAS=dev,html"):
        list_files([source_of(tmp_path, format="html", extractor="trafilatura")])
