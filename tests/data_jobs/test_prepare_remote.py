"""The command with all that it reads and writes in an object store that fails now and then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import places
from cluster.places import ObjectPath
from data_jobs.prepare import main
from tests.data_jobs.conftest import fingerprint, make_texts
from tests.data_jobs.input_files import write_source
from tests.data_jobs.reading.test_input_objects import send
from tests.object_store import S3

KINDS = ("jsonl", "jsonl .gz", "parquet", "text line", "warc")


def write_raw(folder: Path) -> list[dict[str, Any]]:
    """Five kinds of files and an evaluation text that one of the documents is; what a recipe says of them."""
    texts = [text.replace("\n", " ") for text in make_texts(300, 17)]
    (folder / "asked").mkdir(parents=True)
    (folder / "asked" / "questions.txt").write_text(max(texts[::5], key=len))
    own = [(kind, texts[number :: len(KINDS)]) for number, kind in enumerate(KINDS)]
    return [
        {"name": f"s{number}", **write_source(folder / f"in-{number}", kind, part)}
        for number, (kind, part) in enumerate(own)
    ]


def write_recipe(path: Path, raw: str, out: str, sources: list[dict[str, Any]], cache: Path) -> str:
    corpus = {
        "sources": [{**s, "path": f"{raw}/{Path(s['path']).name}"} for s in sources],
        "decontaminate": {"files": [f"{raw}/asked/questions.txt"]},
        "dedup": "minhash",
        "tokenizer": {"vocab_size": 400},
        "shard_bytes": 6_000,
        "split_bytes": 4_000,
        "out": out,
    }
    path.write_text(yaml.safe_dump({"corpus": corpus, "cluster": {"cache_dir": str(cache)}}))
    return str(path)


def test_one_request_in_twenty_fails_and_every_byte_is_equal(
    s3: S3, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a run over local files. Typed once more, the command finds it done."""
    raw, here, place = tmp_path / "raw", tmp_path / "here", places.at(f"{bucket}/corpus")
    assert isinstance(place, ObjectPath)
    sources, cache = write_raw(raw), tmp_path / "cache"
    words = ["--engine", "local", "--json"]
    local = write_recipe(tmp_path / "local.yaml", str(raw), str(here), sources, cache)
    far = str(send(raw, bucket))
    remote = write_recipe(tmp_path / "remote.yaml", far, str(place), sources, cache)
    assert main([local, *words]) == 0
    with s3.failing(20):
        assert main([remote, *words]) == 0
        assert main([remote, *words]) == 0
    said = capsys.readouterr()
    assert "nothing to do" in said.err
    figures = [json.loads(line) for line in said.out.splitlines()]
    assert [one.pop("path") for one in figures] == [str(here), str(place), str(place)]
    assert figures[0] == figures[1] == figures[2]
    assert figures[0]["counts"]["documents"]["dropped"]["contaminated"] >= 1
    want = fingerprint(here)
    assert {name: (place / name).read_bytes() for name in want} == want
    rejected = sorted((here / "rejected").iterdir())
    assert rejected, "what was dropped is shown"
    for file in rejected:
        data = (place / "rejected" / file.name).read_bytes()
        assert data.replace(far.encode(), str(raw).encode()) == file.read_bytes()
    files = [file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()]
    assert sorted(place.sizes()) == sorted(files)
    assert not any(file.is_file() for file in (cache / "prepare").rglob("*.arrow")), "the scratch is gone"
