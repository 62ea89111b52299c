"""Of every kind of source: documents in are documents out or counted drops, and cuts change no byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from data_jobs.reading.missing import is_left_out
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for
from tests.data_jobs.input_files import KINDS, write_source

WHOLE = ("text", "code", "html")  # a file a document
ANY = st.text(st.characters(codec="utf-8"), max_size=60)
ODD = st.sampled_from(
    [
        "",
        " \n ",
        "\0",
        "a\r\nb",
        "\ufeff",
        '"',
        ',"',
        "\ud7ff",
        "<p>&amp;",
        "a\n\nb\n",
        "x" * 3000,
        "海" * 900,
    ]
)
DOCUMENTS = st.lists(st.one_of(ANY, ODD), max_size=12)


def check_ledger(manifest: dict[str, Any]) -> None:
    for stage in [*manifest["stages"], manifest["counts"]]:
        for unit, removed in (("documents", 0), ("bytes", stage["bytes"]["removed"])):
            part = stage[unit]
            assert part["in"] + part["added"] == part["out"] + sum(part["dropped"].values()) + removed, stage
            assert min(part["in"], part["added"], part["out"], removed) >= 0, stage


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(texts=["", "a", "a", "\0", "x" * 3000, "é" * 900])
@given(texts=DOCUMENTS)
def test_documents_in_are_documents_out_or_dropped(
    tmp_path: Path, corpus_folder: Path, kind: str, texts: list[str]
) -> None:
    if kind == "text line":
        texts = [" ".join(text.split("\n")) for text in texts]
    texts = ["A text that is always there, so that something is left of it all.", *texts]
    shutil.rmtree(tmp_path, ignore_errors=True)
    said = write_source(tmp_path / "in", kind, texts)
    wanted = settings_for(
        "unused", source=said, val_fraction=0.0, max_bad_fraction=1.0, max_document_bytes=1024,
        split_bytes=2_000, tokenizer={"path": str(corpus_folder / "tokenizer")},
    )  # fmt: skip
    manifest = prepare(wanted, tmp_path / "out")
    check_ledger(manifest)
    (read,) = (stage for stage in manifest["stages"] if stage["stage"] == "read")
    left_out = sum(
        n for reason, n in read["documents"]["dropped"].items() if is_left_out(wanted.sources[0], reason)
    )
    blank = sum(not text.strip(" \t\r\n\x0b\x0c") for text in texts) if kind == "text line" else 0
    assert read["documents"]["in"] - left_out == len(texts) - blank
    assert read["documents"]["dropped"].keys() <= {"other_record"}
    assert manifest["counts"]["documents"]["out"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_cuts_change_no_byte(tmp_path: Path, kind: str) -> None:
    texts = make_texts(90, 7)
    if kind == "text line":
        texts = [text.replace("\n", " ") for text in texts]
    said = write_source(tmp_path / "in", kind, texts)
    expected = None
    for size in (1 << 30, 5_000, 700):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        prepare(
            settings_for(
                "unused", source=said, split_bytes=size, shard_bytes=4_000, tokenizer={"vocab_size": 400}
            ),
            tmp_path / "out",
        )
        found = fingerprint(tmp_path / "out")
        expected = expected or found
        assert found == expected, size
    assert expected and sum(name.startswith("shards") for name in expected) > 2


def test_the_same_documents_give_the_same_corpus_in_every_format(tmp_path: Path) -> None:
    """But those that extract text or pass on names."""
    texts = [text.replace("\n", " ") for text in make_texts(60, 9)]
    ids = set()
    for kind in KINDS:
        if kind.split()[0] in ("code", "html", "warc", "wet"):
            continue
        said = write_source(tmp_path / kind, kind, texts)
        ids.add(
            prepare(
                settings_for("unused", source=said, tokenizer={"vocab_size": 400}), tmp_path / f"{kind} out"
            )["corpus_id"]
        )
    assert len(ids) == 1


DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(damage=[(0.999, 0)], keep=1.0)
@example(damage=[(0.5, 255)], keep=0.7)
@given(damage=DAMAGE, keep=st.sampled_from([1.0, 1.0, 0.9, 0.4]))
def test_of_damaged_files_too_and_however_they_are_cut(
    tmp_path: Path, corpus_folder: Path, kind: str, damage: list[tuple[float, int]], keep: float
) -> None:
    texts = [text.replace("\n", " ") for text in make_texts(40, 13)]
    found = []
    for size in (1 << 30, 1_500):
        shutil.rmtree(tmp_path, ignore_errors=True)
        said = write_source(tmp_path / "in", kind, texts)
        for file in (tmp_path / "in").iterdir():
            data = bytearray(file.read_bytes())
            for at, byte in damage:
                data[int(at * len(data))] = byte
            file.write_bytes(data[: int(keep * len(data))])
        wanted = settings_for(
            "unused", source=said, val_fraction=0.0, max_bad_fraction=1.0, split_bytes=size,
            tokenizer={"path": str(corpus_folder / "tokenizer")},
        )  # fmt: skip
        try:
            check_ledger(prepare(wanted, tmp_path / "out"))
            found.append(fingerprint(tmp_path / "out"))
        except UserError as error:  # nothing was left; it says how much was read
            found.append({"error": str(error).encode()})
    assert found[0] == found[1]
