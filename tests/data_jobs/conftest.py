"""Small real inputs, and a corpus made of them in this process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_jobs.pipeline import Build
from data_jobs.reading.inputs import cut_splits, list_files
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Record, Reject
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.reading.sources import read_source
from data_jobs.settings import CorpusSettings
from data_jobs.work import run_here

Prepare = Callable[..., dict[str, Any]]

WORDS = """
the sea was calm and a ship went by with white sails set for far harbours where nobody had asked for news
of storms winter light falls on stones rivers carry sand to warm plains while birds return each spring
海 が静かで 船 は 遠く へ 行く naïve café über größe
""".split()  # noqa: SIM905 (a list of quoted words reads worse)


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct short documents of several sentences."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        sentences = [
            " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 12))).capitalize() + "."
            for _ in range(draw.randint(1, 8))
        ]
        texts.append(f"Report {number}. " + ("\n\n" if number % 3 else " ").join(sentences))
    return texts


def write_jsonl(path: Path, texts: list[str], **fields: list[Any]) -> Path:
    """One object a line."""
    rows = [
        {"text": text} | {name: values[i] for name, values in fields.items()} for i, text in enumerate(texts)
    ]
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return path


def settings_for(path: Path | str, **changes: Any) -> CorpusSettings:
    """Settings of one jsonl source with a small vocabulary."""
    source = {"name": "docs", "path": str(path)} | changes.pop("source", {})
    tokenizer = {"vocab_size": 500} | changes.pop("tokenizer", {})
    return CorpusSettings.model_validate({"sources": [source], "tokenizer": tokenizer, **changes})


def prepare(settings: CorpusSettings, out: Path) -> dict[str, Any]:
    """Make a corpus in this process; returns its manifest."""
    files = list_files(settings.sources)
    return Build(settings, out, files, run_here, lambda *_: None).run()


def fingerprint(out: Path) -> dict[str, bytes]:
    """Every byte that is promised: manifest, index, shards, tokenizer."""
    kept = [out / "manifest.json", out / "index.arrow", *out.glob("shards/*"), *out.glob("tokenizer/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


def source_of(path: Path | str, **fields: Any) -> SourceSettings:
    """One source."""
    return SourceSettings.model_validate({"name": "s", "path": str(path), **fields})


def read(path: Path, max_bytes: int = 1 << 20, **fields: Any) -> tuple[list[Record], list[Reject], Reading]:
    """What a whole file gives."""
    reading = Reading()
    items = list(read_source(Piece(str(path), name=path.name), reading, source_of(path, **fields), max_bytes))
    records = [item for item in items if isinstance(item, Record)]
    return records, [item for item in items if isinstance(item, Reject)], reading


def read_cut(source: SourceSettings, split_bytes: int) -> tuple[list[Record | Reject], int, int]:
    """What a source gives in pieces of that size: items, pieces, bytes."""
    items, pieces, size = list[Record | Reject](), 0, 0
    for split in cut_splits(list_files([source]), [source], split_bytes):
        for piece in split.pieces:
            reading = Reading()
            items += read_source(piece, reading, source, 1 << 20)
            pieces, size = pieces + 1, size + reading.bytes_read
    return items, pieces, size


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts(300)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A corpus of several shards; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("corpus")
    path = write_jsonl(folder / "in.jsonl", texts, url=[f"u{i}" for i in range(len(texts))])
    settings = settings_for(path, shard_bytes=20_000, val_fraction=0.1, source={"metadata": ["url"]})
    prepare(settings, folder / "out")
    return folder / "out"
