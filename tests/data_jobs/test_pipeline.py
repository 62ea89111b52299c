"""The whole flow in this process: what comes out, and that nothing else than the input decides it."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from data_jobs import open_corpus
from data_jobs.reading.inputs import list_files
from data_jobs.settings import differences, fixed_settings
from data_jobs.shards import merge_task
from data_jobs.state import clear, look
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl

SMALL = {"shard_bytes": 8_000, "val_fraction": 0.1}


def documents(out: Path) -> list[str]:
    corpus = open_corpus(out)
    found = []
    for split in ("train", "val"):
        for source in corpus.sources(split):
            stream = corpus.stream(source, split)
            text = corpus.tokenizer
            ids = stream.read(0, stream.tokens).tolist()
            document: list[int] = []
            for token in ids:
                if token == text.eos_id:
                    found.append(text.decode(document))
                    document = []
                else:
                    document.append(token)
    return sorted(found)


def test_equal_over_cuts_orders_and_names(tmp_path: Path, texts: list[str]) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", texts)
    expected = None
    for number, splits in enumerate((1, 3, 16)):
        settings = settings_for(one, **SMALL, split_bytes=one.stat().st_size // splits + 1)
        prepare(settings, tmp_path / f"out{number}")
        expected = expected or fingerprint(tmp_path / f"out{number}")
        assert fingerprint(tmp_path / f"out{number}") == expected
    assert expected is not None and len(expected) >= 8
    shuffled = random.Random(1).sample(texts, len(texts))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(7):
        path = write_jsonl(folder / f"z{number * 5 % 7}.jsonl", shuffled[number::7])
        if number % 2:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    prepare(settings_for(folder, **SMALL), tmp_path / "out-many")
    assert fingerprint(tmp_path / "out-many") == expected


def test_tokenizer_sample_does_not_depend_on_the_cut(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    prints = {}
    for size in (5_000, 20_000, 1_000_000):
        for sample in (3_000, 6_000):
            settings = settings_for(path, tokenizer={"sample_bytes": sample}, split_bytes=size)
            manifest = prepare(settings, tmp_path / f"out{size}-{sample}")
            prints.setdefault(sample, set()).add(manifest["tokenizer"]["fingerprint"])
    assert [len(found) for found in prints.values()] == [1, 1]
    assert prints[3_000] != prints[6_000]


def test_documents_in_are_documents_out(tmp_path: Path, texts: list[str]) -> None:
    prepare(settings_for(write_jsonl(tmp_path / "in.jsonl", texts), **SMALL), tmp_path / "out")
    assert documents(tmp_path / "out") == sorted(texts)
    corpus = open_corpus(tmp_path / "out")
    share = corpus.stream("docs", "val").documents / len(texts)
    assert 0.03 < share < 0.2
    assert len(corpus.shards) > 4


def test_documents_stand_in_the_order_of_their_keys(corpus_folder: Path) -> None:
    from data_jobs.content import Placement, content_hash

    placement = Placement.of(0, 0.1)
    corpus = open_corpus(corpus_folder)
    for split in ("train", "val"):
        stream = corpus.stream("docs", split)
        ids = stream.read(0, stream.tokens).tolist()
        keys, document = [], []
        for token in ids:
            if token == corpus.tokenizer.eos_id:
                c = content_hash("docs", corpus.tokenizer.decode(document))
                keys.append(placement.sort_key(c))
                assert placement.is_val(c) == (split == "val")
                document = []
            else:
                document.append(token)
        assert keys == sorted(keys) and len(keys) > 5


BAD = [b'{"text": null}', b'{"text": "\xff"}', b"{", b"[1]", b'{"text": 5}', b'{"body": "b"}']


def test_ledger(tmp_path: Path, texts: list[str]) -> None:
    """Every record in is a document out or a reason, every byte too."""
    path = write_jsonl(
        tmp_path / "in.jsonl", [*texts, texts[0], texts[0], texts[5], "  ", "e\u0301\x00" * 9, "long " * 500]
    )
    path.write_bytes(path.read_bytes() + b"\n".join(BAD) + b"\n\n")
    settings = settings_for(path, **SMALL, max_bad_fraction=0.1, max_document_bytes=1024, split_bytes=9_000)
    manifest = prepare(settings, tmp_path / "out")
    counts = manifest["counts"]
    dropped = counts["documents"]["dropped"]
    assert dropped == {
        "null_text": 1, "invalid_utf8": 1, "invalid_json": 1, "not_an_object": 1, "text_not_string": 1,
        "missing_text": 1, "empty": 1, "duplicate": 3,
    }  # fmt: skip
    assert counts["documents"]["in"] == len(texts) + 6 + len(BAD)
    assert counts["documents"]["added"] == 2  # the long one is three
    for stage in [*manifest["stages"], counts]:
        for unit, removed in (("documents", 0), ("bytes", stage["bytes"]["removed"])):
            part = stage[unit]
            assert part["in"] + part["added"] == part["out"] + sum(part["dropped"].values()) + removed
    assert counts["bytes"]["in"] == path.stat().st_size
    found = documents(tmp_path / "out")
    assert counts["bytes"]["out"] == sum(len(text.encode()) for text in found)
    assert counts["documents"]["out"] == len(found) == len(set(found)) + 0
    assert unicodedata.normalize("NFC", "e\u0301" * 9) in found
    splits = manifest["sources"][0]["splits"].values()
    assert sum(split["documents"] for split in splits) == len(found)


def test_rejected_sample_has_reason_and_place(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    lines = path.read_bytes().splitlines()
    lines[150:150] = BAD
    path.write_bytes(b"\n".join(lines) + b"\n" + lines[3])
    settings = settings_for(path, **SMALL, max_bad_fraction=0.1, split_bytes=7_000)
    prepare(settings, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/rejected/docs.jsonl").read_text().splitlines()]
    assert len(rows) == len(BAD) + 1
    for row in rows:
        at_line = path.read_bytes()[: row["offset"]].count(b"\n") + 1
        assert row["line"] == at_line and row["file"] == str(path)
        if row["reason"] != "duplicate":
            assert BAD.index(lines[at_line - 1]) == at_line - 151


def test_of_duplicates_the_smallest_metadata_stays(tmp_path: Path, texts: list[str]) -> None:
    for number, order in enumerate((["b", "a", "c"], ["c", "b", "a"], ["a", "c", "b"])):
        # The three stand in files of their own, so that they meet in the merge and not before.
        folder = tmp_path / f"in{number}"
        folder.mkdir()
        write_jsonl(folder / "all.jsonl", texts, url=["x"] * len(texts))
        for file, url in enumerate(order):
            write_jsonl(
                folder / f"{file}.jsonl", [f"other {url} " + "pad " * 900, "twin text"], url=["x", url]
            )
        settings = settings_for(folder, source={"metadata": ["url"]}, split_bytes=5_000)
        prepare(settings, tmp_path / f"out{number}")
        assert fingerprint(tmp_path / f"out{number}") == fingerprint(tmp_path / "out0")
    corpus = open_corpus(tmp_path / "out0")
    from data_jobs.content import content_hash, document_id
    from data_jobs.shards.shard_file import ShardFile

    kept = {}
    for shard in corpus.shards:
        batch = ShardFile(corpus.path / shard.name).batch
        kept |= dict(zip(batch["id"].to_pylist(), batch["meta.url"].to_pylist(), strict=True))
    assert kept[document_id(content_hash("docs", "twin text"))] == "a"


def test_no_dedup_keeps_all(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [*texts, *texts[:50]])
    manifest = prepare(settings_for(path, dedup="none"), tmp_path / "out")
    assert manifest["counts"]["documents"]["out"] == 350
    assert documents(tmp_path / "out") == sorted([*texts, *texts[:50]])


def test_a_reject_of_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(20):
        (tree / f"m{n}.py").write_text(f"x = {n}\n")
    (tree / os.fsdecode(b"x\xff.py")).write_bytes(b"x = '\xff'\n")
    settings = settings_for(tree, source={"format": "code"}, val_fraction=0.0, max_bad_fraction=0.1)
    prepare(settings, tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out/rejected/docs.jsonl").read_bytes().splitlines()]
    assert row["reason"] == "invalid_utf8" and os.fsencode(row["file"]).endswith(b"/x\xff.py")


def test_same_file_twice_counts_twice(tmp_path: Path, texts: list[str]) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    manifest = prepare(settings_for(tmp_path), tmp_path / "out")
    assert manifest["counts"]["documents"] == {
        "in": 600,
        "added": 0,
        "out": 300,
        "dropped": {"duplicate": 300},
    }


def test_several_sources_and_formats(tmp_path: Path, texts: list[str]) -> None:
    write_jsonl(tmp_path / "web.jsonl", texts[:150])
    (tmp_path / "book.txt").write_text("\n\n".join(texts[150:]))
    (tmp_path / "code").mkdir()
    for n in range(30):
        (tmp_path / "code" / f"m{n}.py").write_text(f"def f{n}(x):\n    return x + {n}\n")
    settings = settings_for(tmp_path / "web.jsonl", val_fraction=0.0)
    values = settings.model_dump()
    values["sources"] += [
        {"name": "book", "path": str(tmp_path / "book.txt"), "format": "text", "per": "line"},
        {"name": "code", "path": str(tmp_path / "code"), "format": "code", "weight": 2.0},
    ]
    manifest = prepare(type(settings).model_validate(values), tmp_path / "out")
    corpus = open_corpus(tmp_path / "out")
    assert corpus.sources("train") == ["docs", "book", "code"] and corpus.sources("val") == []
    assert [s["sentence_rule"] for s in manifest["sources"]] == ["prose-1", "prose-1", "code-1"]
    assert [s["weight"] for s in manifest["sources"]] == [None, None, 2.0]
    from data_jobs.shards.shard_file import ShardFile

    shard = next(shard for shard in corpus.shards if shard.source == "code")
    paths = ShardFile(corpus.path / shard.name).batch["meta.path"].to_pylist()
    assert sorted(paths) == sorted(f"m{n}.py" for n in range(30))


def test_manifest_says_nothing_of_places_and_times(tmp_path: Path, texts: list[str]) -> None:
    out = tmp_path / "out"
    prepare(settings_for(write_jsonl(tmp_path / "in.jsonl", texts), **SMALL), out)
    for data in fingerprint(out).values():
        assert str(tmp_path).encode() not in data and b"in.jsonl" not in data
    assert not (out / ".work").exists()
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "index.arrow", "shards", "tokenizer", "report.json", "rejected", "input.json",
    }  # fmt: skip


# -- what cannot be made into a corpus


def test_too_many_bad_records_show_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"content": "a text", "url": "u"}\n' * 50)
    with pytest.raises(UserError, match=r"50 of 50 .*missing_text 50.*Fields seen in them: content, url"):
        prepare(settings_for(path), tmp_path / "out")
    # The way out is another setting, and what was begun is not in its way.
    settings = settings_for(path, source={"text_field": "content"}, val_fraction=0.0)
    assert (
        look(tmp_path / "out", fixed_settings(settings), list_files(settings.sources), settings.sources)
        == "new"
    )
    prepare(settings, tmp_path / "out")


def test_on_bad_fail_names_the_first(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    path.write_bytes(path.read_bytes() + b"{\n")
    with pytest.raises(UserError, match=r"in\.jsonl:301: invalid_json"):
        prepare(settings_for(path, on_bad="fail"), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b'{"text": " "}\n{"text": ""}\n'])
def test_nothing_left(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no document is left"):
        prepare(settings_for(tmp_path / "in.jsonl"), tmp_path / "out")


def test_file_that_vanished(tmp_path: Path, texts: list[str]) -> None:
    from data_jobs.pipeline import Build
    from data_jobs.work import run_here

    settings = settings_for(write_jsonl(tmp_path / "in.jsonl", texts))
    files = list_files(settings.sources)
    (tmp_path / "in.jsonl").unlink()
    with pytest.raises(UserError, match=r"in\.jsonl: cannot be read"):
        Build(settings, tmp_path / "out", files, run_here, lambda *_: None).run()


# -- again, and after a kill


def look_at(settings: Any, out: Path) -> str:
    return look(out, fixed_settings(settings), list_files(settings.sources), settings.sources)


def test_finished_is_finished_until_something_differs(tmp_path: Path, texts: list[str]) -> None:
    path, out = write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out"
    settings = settings_for(path)
    assert look_at(settings, out) == "new"
    prepare(settings, out)
    assert look_at(settings, out) == "finished"
    assert look_at(settings_for(path, split_bytes=1000, max_bad_fraction=0.5), out) == "finished"  # free ones
    path.touch()
    assert look_at(settings, out) == "finished"  # another time, the same content
    path.rename(tmp_path / "renamed.jsonl")
    assert look_at(settings_for(tmp_path / "renamed.jsonl"), out) == "finished"
    write_jsonl(path, [*texts[:-1], "one text changed"])
    with pytest.raises(UserError, match=r"in\.jsonl: not among .*(\n.*)*--fresh"):
        look_at(settings, out)
    with pytest.raises(
        UserError, match=r"corpus\.seed was 0, now 4\n.*vocab_size was 500, now 600\n.*--corpus\.out"
    ):
        look_at(settings_for(tmp_path / "renamed.jsonl", seed=4, tokenizer={"vocab_size": 600}), out)


def test_code_under_another_name_is_another_input(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(20):
        (tree / f"m{n}.py").write_text(f"x = {n}\n")
    settings = settings_for(tree, source={"format": "code"}, val_fraction=0.0)
    prepare(settings, tmp_path / "out")
    (tree / "m3.py").rename(tree / "other.py")
    with pytest.raises(UserError, match=r"other\.py"):
        look_at(settings, tmp_path / "out")


def test_fresh_removes_only_a_corpus(tmp_path: Path, texts: list[str]) -> None:
    out = tmp_path / "out"
    prepare(settings_for(write_jsonl(tmp_path / "in.jsonl", texts)), out)
    (out / "notes.txt").write_text("mine")
    clear(out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    clear(out)
    with pytest.raises(UserError, match="not empty and not a corpus"):
        look_at(settings_for(tmp_path / "in.jsonl"), out)


def test_settings_that_fix_a_corpus_name_no_place() -> None:
    one, other = (fixed_settings(settings_for(path, split_bytes=size)) for path, size in (("a", 1), ("b", 2)))
    assert one == other
    assert list(differences(one, one | {"seed": 1})) == ["corpus.seed was 0, now 1"]


RUN = """
import sys
from pathlib import Path
from tests.data_jobs.conftest import prepare, settings_for
prepare(settings_for(sys.argv[1], shard_bytes=8_000, val_fraction=0.1, split_bytes=20_000), Path(sys.argv[2]))
"""
FAULTS = [
    "prepare.before_clean:job=0", "prepare.before_clean:job=2", "prepare.after_clean:job=1",
    "prepare.before_train", "prepare.after_train",
    "prepare.before_spill:job=1", "prepare.after_spill:job=2",
    "prepare.before_merge:job=0", "prepare.after_merge:job=3",
    "prepare.before_manifest", "prepare.after_manifest",
]  # fmt: skip


def run_and_kill(path: Path, out: Path, fault: str | None) -> int:
    env = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])} | (
        {"MANTA_FAULT": fault} if fault else {}
    )
    return subprocess.run([sys.executable, "-c", RUN, str(path), str(out)], env=env, check=False).returncode


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, texts: list[str], fault: str
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    assert run_and_kill(path, tmp_path / "out", fault) == -9
    settings = settings_for(path, **SMALL)
    assert (tmp_path / "out/manifest.json").exists() == (fault == "prepare.after_manifest")
    if fault == "prepare.after_manifest":
        assert look_at(settings, tmp_path / "out") == "finished"
    else:
        assert look_at(settings, tmp_path / "out") == "unfinished"
        prepare(settings_for(path, **SMALL, split_bytes=20_000), tmp_path / "out")
    prepare(settings, tmp_path / "whole")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_what_is_committed_is_not_done_again(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    run_and_kill(path, tmp_path / "out", "prepare.after_spill:job=1")
    scratch = tmp_path / "out/.work"
    before = {file: file.stat().st_mtime_ns for file in scratch.rglob("*") if file.is_file() and file.suffix}
    run_and_kill(path, tmp_path / "out", "prepare.before_manifest")
    after = {file: file.stat().st_mtime_ns for file in scratch.rglob("*") if file.is_file()}
    done = [file for file in before if file.name != "settings.json" and ".tmp" not in file.name]
    assert len(done) > 5
    assert all(after[file] == before[file] for file in done)


@pytest.mark.parametrize("count", [60, 300])
def test_input_that_changes_between_two_starts(tmp_path: Path, texts: list[str], count: int) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    run_and_kill(path, tmp_path / "out", "prepare.after_merge:job=3")
    write_jsonl(path, make_texts(count, seed=9))  # 60 have fewer shards: the rest must go
    prepare(settings_for(path, **SMALL), tmp_path / "out")
    prepare(settings_for(path, **SMALL), tmp_path / "whole")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_other_settings_do_not_go_on_with_what_was_begun(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    run_and_kill(path, tmp_path / "out", "prepare.after_train")
    with pytest.raises(UserError, match=r"an unfinished corpus(.*\n)*.*corpus\.seed was 0, now 1"):
        look_at(settings_for(path, **SMALL, seed=1), tmp_path / "out")


def test_shards_do_not_hang_on_how_much_is_merged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = make_texts(120)
    source = write_jsonl(tmp_path / "in.jsonl", [*texts, *texts[::4]])
    settings = settings_for(source, shard_bytes=6_000, split_bytes=9_000, val_fraction=0.2)
    prepare(settings, tmp_path / "at once")
    for size in (1, 700, 5_000):
        monkeypatch.setattr(merge_task, "PART_BYTES", size)
        prepare(settings, tmp_path / f"by {size}")
        assert fingerprint(tmp_path / f"by {size}") == fingerprint(tmp_path / "at once")
