"""A corpus in an object store is the same corpus; what is damaged there or in its copy is found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cluster import lease, places
from cluster.cache import Cache
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath
from cluster.settings import ClusterSettings
from data_jobs import open_corpus, state
from data_jobs.prepare import _scratch, main
from data_jobs.shards import shard_ranges
from data_jobs.shards.corpus import FarTokenStream
from data_jobs.verify import main as verify
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl
from tests.object_store import S3


@pytest.fixture
def remote(bucket: str, corpus_folder: Path) -> ObjectPath:
    place = places.at(bucket) / "corpus"
    assert isinstance(place, ObjectPath)
    places.send_folder(corpus_folder, place, "manifest.json")
    return place


def test_the_same_corpus(s3: S3, remote: ObjectPath, corpus_folder: Path, tmp_path: Path) -> None:
    here = open_corpus(corpus_folder)
    with s3.failing(2):
        there = open_corpus(remote, "read", Cache(tmp_path))
        assert there.corpus_id == here.corpus_id
        assert there.tokenizer.fingerprint == here.tokenizer.fingerprint
        for split in ("train", "val"):
            ours, theirs = here.stream("docs", split), there.stream("docs", split)
            assert np.array_equal(ours.read(0, ours.tokens), theirs.read(0, theirs.tokens))
            assert np.array_equal(ours.sentence_ends(0, ours.tokens), theirs.sentence_ends(0, theirs.tokens))


def test_only_what_is_read_is_copied_or_all_at_once(s3: S3, remote: ObjectPath, tmp_path: Path) -> None:
    corpus = open_corpus(remote, "read", Cache(tmp_path))
    assert not list(tmp_path.rglob("*.arrow"))
    corpus.stream("docs", "val").read(0, 1)
    assert len(list(tmp_path.rglob("*.arrow"))) == 1 < len(corpus.shards)
    corpus.bring(2)
    assert len(list(tmp_path.rglob("*.arrow"))) == len(corpus.shards)
    s3.log()
    open_corpus(remote, "read", Cache(tmp_path)).check()
    assert not [path for method, path, _ in s3.log() if path.endswith(".arrow") and "/shards/" in path]


def test_damage_is_named_and_a_damaged_copy_fetched_anew(remote: ObjectPath, tmp_path: Path) -> None:
    corpus = open_corpus(remote, "read", Cache(tmp_path))
    shard = corpus.shards[0]
    corpus.open(shard)
    (copy,) = tmp_path.rglob("*.arrow")
    good = copy.read_bytes()
    copy.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
    with pytest.raises(RunError, match=f"{remote / shard.name} .copy {copy}.*damaged"):
        open_corpus(remote, "start", Cache(tmp_path))
    open_corpus(remote, "start", Cache(tmp_path))
    assert copy.read_bytes() == good
    bad = good[: shard.values_at] + bytes([good[shard.values_at] ^ 1]) + good[shard.values_at + 1 :]
    places.write_bytes(remote / shard.name, bad)
    for _ in range(2):
        copy.unlink(missing_ok=True)
        with pytest.raises(RunError, match=f"{remote / shard.name}.*tokens.values chunk 0"):
            open_corpus(remote, "start", Cache(tmp_path))
    (remote / shard.name).unlink()
    with pytest.raises(RunError, match=f"{remote / shard.name}: missing"):
        open_corpus(remote, "start", Cache(tmp_path))


def test_verify(remote: ObjectPath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert verify([str(remote)]) == 0
    (remote / "index.arrow").unlink()
    with pytest.raises(RunError, match=f"{remote}/index.arrow"):
        verify([str(remote)])


def test_one_that_is_larger_than_the_cache_is_read_by_chunk(
    s3: S3, remote: ObjectPath, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order the same values; never more on disk than is allowed; a chunk in use is fetched once."""
    monkeypatch.setattr(shard_ranges, "KEPT", 2)
    here = open_corpus(corpus_folder)
    most = sum(remote.sizes()[shard.name] for shard in here.shards) // 3
    there = open_corpus(remote, None, Cache(tmp_path, most))
    there.bring()
    assert not list(tmp_path.rglob("*.arrow"))
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        ours, theirs = here.stream("docs", split), there.stream("docs", split)
        for _ in range(60):
            start, stop = sorted(draw.integers(0, ours.tokens + 1, 2).tolist())
            assert np.array_equal(ours.read(start, stop), theirs.read(start, stop))
            assert np.array_equal(ours.document_bounds(start, stop), theirs.document_bounds(start, stop))
            assert np.array_equal(ours.sentence_ends(start, stop), theirs.sentence_ends(start, stop))
            used = sum(file.stat().st_size for file in tmp_path.rglob("chunks/*/*"))
            assert 0 < used <= most
        s3.log()
        for _ in range(3):
            theirs.read(0, 9)
        assert len(s3.log()) <= 1
    shard = next(shard for shard in there.shards if shard.split == "val")
    stream = open_corpus(remote, "read", Cache(tmp_path / "other", most)).stream("docs", "val")
    good = (remote / shard.name).read_bytes()
    bad = good[: shard.values_at] + bytes([good[shard.values_at] ^ 1]) + good[shard.values_at + 1 :]
    places.write_bytes(remote / shard.name, bad)
    with pytest.raises(RunError, match=f"{remote / shard.name}: bytes .* are damaged"):
        stream.read(0, 9)
    places.write_bytes(remote / shard.name, b"no shard" * 1000)
    with pytest.raises(RunError, match=f"{remote / shard.name}"):
        open_corpus(remote, "read", Cache(tmp_path / "third", most)).stream("docs", "val").read(0, 9)


def test_another_start_finds_the_headers_here(s3: S3, remote: ObjectPath, tmp_path: Path) -> None:
    """A damaged copy of one is given up."""
    for start in range(4):
        s3.log()
        corpus = open_corpus(remote, "read", Cache(tmp_path, 100_000_000))
        assert corpus.copies is not None
        corpus.copies.fit = False  # type: ignore[misc]
        (header, *_) = [*tmp_path.rglob("headers/*"), None]
        if start == 2:
            assert header is not None
            header.write_bytes(b"x" * header.stat().st_size)
            with pytest.raises(RunError, match="damaged"):
                corpus.check()
            continue
        corpus.check()
        fetched = [path for method, path, _ in s3.log() if path.endswith(".arrow") and "/shards/" in path]
        assert len(fetched) == {0: len(fetched), 1: 0, 3: 1}[start] and (fetched or start)


def test_what_is_expected_is_there_when_it_is_read(s3: S3, remote: ObjectPath, tmp_path: Path) -> None:
    corpus = open_corpus(remote, "read", Cache(tmp_path, 100_000_000))
    assert corpus.copies is not None
    corpus.copies.fit = False  # type: ignore[misc]
    stream = corpus.stream("docs", "train")
    assert isinstance(stream, FarTokenStream)
    stream.expect(0, stream.tokens)
    deadline = time.monotonic() + 10
    while len(list(tmp_path.rglob("chunks/*/*"))) < len(stream._shards):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)
    s3.log()
    stream.read(0, stream.tokens)
    assert s3.log() == []


EXPECTING = """
import sys, time
from pathlib import Path
from cluster import places
from cluster.cache import Cache
from data_jobs.shards.shard_ranges import Chunks
chunks, path = Chunks(Cache(sys.argv[2], 1 << 30)), places.at(sys.argv[1]) / "nothing"
for number in range(200):
    chunks.expect(path, 0, 100, f"{number:032x}")
time.sleep(0.5)
"""


def test_what_is_still_expected_holds_up_no_exit(bucket: str, tmp_path: Path) -> None:
    """With a store that does not answer, each of the queued would take its tries."""
    env = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", EXPECTING, bucket, str(tmp_path)]
    subprocess.run(command, check=True, env=env, timeout=20)


def look_at(place: ObjectPath) -> str:
    return state.look(place, {}, [], [])


def test_half_of_a_corpus_of_ours_is_nothing_yet(remote: ObjectPath) -> None:
    """Its scratch may be gone with its machine. Anything else there is refused."""
    (remote / "manifest.json").unlink()
    places.delete_tree(remote / "tokenizer")
    assert look_at(remote) == "new"
    places.write_bytes(remote / "notes.txt", b"mine")
    with pytest.raises(UserError, match="not empty and not a corpus"):
        look_at(remote)
    (remote / "notes.txt").unlink()
    (remote / "index.arrow").unlink()
    with pytest.raises(UserError, match="not empty and not a corpus"):
        look_at(remote)


def test_fresh_removes_only_a_corpus(remote: ObjectPath) -> None:
    places.write_bytes(remote / "notes.txt", b"mine")
    state.clear(remote)
    assert list(remote.sizes()) == ["notes.txt"]
    places.write_bytes(remote / "report.json", b"mine, too")
    state.clear(remote)
    assert sorted(remote.sizes()) == ["notes.txt", "report.json"]


def test_prepare_writes_there(
    ray_here: None, bucket: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short while it is sent, it is no corpus; the same command sends it; then nothing is left to do."""
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    made_here = prepare(settings_for(path, shard_bytes=20_000, val_fraction=0.1), tmp_path / "plain")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"corpus:\n  sources: [{{name: docs, path: '{path}'}}]\n  tokenizer: {{vocab_size: 500}}\n"
        f"  shard_bytes: 20000\n  val_fraction: 0.1\n  out: {bucket}/corpus\n"
        f"cluster: {{cache_dir: '{tmp_path / 'cache'}'}}\n"
    )
    place, sent = places.at(f"{bucket}/corpus"), list[str]()
    assert isinstance(place, ObjectPath)
    scratch = _scratch(place, ClusterSettings(cache_dir=str(tmp_path / "cache")))
    write_file = ObjectPath.write_file

    def cut_short(self: ObjectPath, file: Path) -> None:
        sent.append(file.name)
        if len(sent) == 5:
            raise places.PlaceError(str(self), "writing failed on purpose")
        write_file(self, file)

    with lease.hold(place), pytest.raises(UserError, match="is writing"):
        main([str(recipe)])
    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "write_file", cut_short)
        with pytest.raises(RunError, match="on purpose"):
            main([str(recipe)])
    with pytest.raises(UserError, match=r"not a corpus, manifest\.json is missing"):
        open_corpus(place)
    places.write_bytes(place / "shards" / "of-other-settings.arrow", b"x")
    places.delete_tree(scratch)
    assert main([str(recipe)]) == 0
    assert open_corpus(place, cache=Cache(tmp_path)).corpus_id == made_here["corpus_id"]
    assert not list((tmp_path / "cache").rglob("*.arrow")), "the scratch is gone"
    assert not (place / "shards" / "of-other-settings.arrow").exists()
    for name, data in fingerprint(tmp_path / "plain").items():
        assert (place / name).read_bytes() == data, name
    before = place.sizes()
    assert main([str(recipe)]) == 0
    with pytest.raises(UserError, match=rf"{place}: a corpus is there already.*\n.*corpus\.seed"):
        main([str(recipe), "--corpus.seed", "3"])
    assert place.sizes() == before
    assert main([str(recipe), "--corpus.seed", "3", "--fresh"]) == 0
    assert open_corpus(place, cache=Cache(tmp_path)).corpus_id != made_here["corpus_id"]


def test_scratch_of_a_finished_corpus_is_not_sent(
    s3: S3, bucket: str, texts: list[str], tmp_path: Path
) -> None:
    """Killed between the manifest and the removal of the scratch, which holds every text."""
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"corpus:\n  sources: [{{name: docs, path: '{path}'}}]\n  tokenizer: {{vocab_size: 500}}\n"
        f"  shard_bytes: 20000\n  val_fraction: 0.1\n  out: {bucket}/corpus\n"
        f"cluster: {{cache_dir: '{tmp_path / 'cache'}'}}\n"
    )
    place = places.at(f"{bucket}/corpus")
    assert isinstance(place, ObjectPath)
    scratch = _scratch(place, ClusterSettings(cache_dir=str(tmp_path / "cache")))
    prepare(settings_for(path, shard_bytes=20_000, val_fraction=0.1), scratch)
    (scratch / ".work").mkdir()
    (scratch / ".work" / "texts.arrow").write_bytes(b"every text")
    s3.log()
    assert main([str(recipe), "--engine", "local"]) == 0
    sent = [path for method, path, _ in s3.log() if method == "PUT"]
    assert any("manifest.json" in path for path in sent) and not any(".work" in path for path in sent)
    assert not scratch.exists()
