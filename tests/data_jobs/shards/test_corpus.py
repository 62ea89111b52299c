"""Reading a corpus: the stream, and every kind of damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import RunError, UserError
from cluster.sealed import seal, unseal
from data_jobs import open_corpus
from data_jobs.shards import digests
from data_jobs.shards.manifest import read_index, read_manifest
from data_jobs.shards.shard_file import Lists, ShardFile, write_shard
from data_jobs.verify import main as verify


@pytest.fixture
def copy(corpus_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus_folder, tmp_path / "corpus"))


def test_importing_is_light() -> None:
    code = (
        "import sys, data_jobs, data_jobs.settings, data_jobs.shards.corpus; "
        "assert not {'ray', 'torch', 'sentencepiece', 'numba', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stream_is_the_documents(corpus_folder: Path, texts: list[str]) -> None:
    corpus = open_corpus(corpus_folder)
    assert corpus.sources("train") == corpus.sources("val") == ["docs"]
    seen = []
    for split in ("train", "val"):
        stream = corpus.stream("docs", split)
        tokens = stream.read(0, stream.tokens)
        ends = np.flatnonzero(tokens == corpus.tokenizer.eos_id)
        documents = [corpus.tokenizer.decode(part) for part in np.split(tokens, ends + 1)[:-1]]
        assert len(documents) == stream.documents
        assert stream.bytes == sum(len(document.encode()) for document in documents)
        assert tokens.dtype == np.uint16 and stream.width == 2
        seen += documents
    assert sorted(seen) == sorted(texts)


def test_any_range_equals_the_whole(corpus_folder: Path) -> None:
    stream = open_corpus(corpus_folder, verify="read").stream("docs", "train")
    assert len(stream._shards) > 1
    whole = stream.read(0, stream.tokens)
    draw = np.random.default_rng(0)
    for _ in range(200):
        start, stop = sorted(draw.integers(0, stream.tokens + 1, 2).tolist())
        assert np.array_equal(stream.read(start, stop), whole[start:stop])
    inside = stream.read(3, 90)
    assert isinstance(inside.base, np.memmap) or inside.base is not None  # a view of the file, no copy
    for bad in ((-1, 3), (5, 4), (0, stream.tokens + 1)):
        with pytest.raises(ValueError, match="of a stream of"):
            stream.read(*bad)


def test_documents_and_their_sentences_by_range(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder, verify="read")
    stream = corpus.stream("docs", "train")
    bounds, sentences = [0], []
    for shard in (shard for shard in corpus.shards if shard.split == "train"):
        batch = ShardFile(corpus.path / shard.name).batch
        lists = zip(batch["tokens"].to_pylist(), batch["sentence_ends"].to_pylist(), strict=True)
        for tokens, ends in lists:
            sentences.append([bounds[-1] + end for end in ends])
            bounds.append(bounds[-1] + len(tokens))
    assert stream.document_bounds(0, stream.tokens).tolist() == bounds
    draw = np.random.default_rng(0)
    for width in (5, 60, 900, 20_000):  # most of the narrow ones have no document that begins there
        for start in draw.integers(0, stream.tokens, 40).tolist():
            stop = min(start + width, stream.tokens)
            inside = [k for k, bound in enumerate(bounds[:-1]) if start <= bound < stop]
            found, ends = stream.document_bounds(start, stop), stream.sentence_ends(start, stop)
            assert found.dtype == ends.dtype == np.int64
            assert found.tolist() == (
                [bounds[k] for k in inside] + [bounds[inside[-1] + 1]] if inside else []
            )
            assert ends.tolist() == [end for k in inside for end in sentences[k]]
    with pytest.raises(ValueError, match="of a stream of"):
        stream.document_bounds(0, stream.tokens + 1)


@pytest.mark.parametrize("buffer", ["tokens.offsets", "sentence_ends.offsets", "sentence_ends.values"])
def test_a_flip_in_the_documents_is_found_at_the_read(copy: Path, buffer: str) -> None:
    shard = open_corpus(copy).shards[0]
    at, _, size = ShardFile(copy / shard.name).buffers[buffer]
    flip(copy / shard.name, at + size // 2)
    stream = open_corpus(copy, verify="read").stream("docs", shard.split)
    assert len(stream.read(0, 4)) == 4
    for _ in range(2):  # and again, not once only
        with pytest.raises(RunError, match=f"{shard.name}: {buffer} chunk 0"):
            stream.sentence_ends(0, 4)


def test_shard_is_what_the_contract_says(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    for shard in corpus.shards:
        path = corpus.path / shard.name
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            assert reader.num_record_batches == 1
            batch = reader.get_batch(0)
            assert batch.schema.names == ["id", "tokens", "sentence_ends", "meta.url"]
            assert batch.schema.field("tokens").type.value_type == pa.uint16()
            assert all(batch[i].null_count == 0 for i in range(4))
            for tokens, ends in zip(
                batch["tokens"].to_pylist(), batch["sentence_ends"].to_pylist(), strict=True
            ):
                assert tokens[-1] == corpus.tokenizer.eos_id and tokens.count(corpus.tokenizer.eos_id) == 1
                assert not set(tokens[:-1]) & set(corpus.tokenizer.specials.values())
                assert ends[-1] == len(tokens) - 1 and sorted(set(ends)) == ends
            # A range reader needs no Arrow: token j stands at values_at + width * j.
            values = np.fromfile(path, "<u2", shard.tokens, offset=shard.values_at)
            assert np.array_equal(values, batch["tokens"].flatten().to_numpy())


def test_unknown_source(corpus_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no source 'web' .*there: docs"):
        open_corpus(corpus_folder).stream("web", "train")


def test_not_a_corpus(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"not a corpus.*data_jobs\.prepare RECIPE --corpus\.out"):
        open_corpus(tmp_path / "nowhere")
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a corpus"):
        open_corpus(copy)


def change_manifest(folder: Path, **changes: object) -> None:
    manifest = unseal((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(seal(manifest | changes))


def test_damaged_manifest_index_and_tokenizer(copy: Path) -> None:
    change_manifest(copy, version=99)
    with pytest.raises(UserError, match="version 99"):
        open_corpus(copy)
    change_manifest(copy, version=1, corpus_id="0" * 64)
    with pytest.raises(RunError, match="corpus_id"):
        open_corpus(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json: damaged"):
        open_corpus(copy)


def test_damaged_index(copy: Path) -> None:
    flip(copy / "index.arrow", 400)
    with pytest.raises(
        RunError, match=r"index\.arrow: damaged, digest [0-9a-f]{64}, the manifest says [0-9a-f]{64}"
    ):
        open_corpus(copy)
    (copy / "index.arrow").unlink()
    with pytest.raises(RunError, match=r"index\.arrow: cannot be read"):
        open_corpus(copy)


def test_damaged_tokenizer(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(copy / "tokenizer" / "sentencepiece.model", 5_000)
    with pytest.raises(RunError, match="tokenizer.*damaged"):
        _ = open_corpus(copy).tokenizer
    assert verify([str(copy)]) == 1
    assert "tokenizer" in capsys.readouterr().out


def test_missing_shard(copy: Path) -> None:
    name = open_corpus(copy).shards[0].name
    (copy / name).unlink()
    with pytest.raises(RunError, match=f"{name}: the shard cannot be opened"):
        open_corpus(copy)


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_flip_in_each_chunk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1 KiB here, so that a small shard has many."""
    monkeypatch.setattr(digests, "CHUNK_BYTES", 1024)
    monkeypatch.setattr("data_jobs.shards.shard_file.CHUNK_BYTES", 1024)
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 40, 200)
    path = tmp_path / "s.arrow"
    tokens = Lists(draw.integers(0, 900, lengths.sum()).astype(np.uint16), lengths)
    ends = Lists(np.ones(200, np.uint32), np.ones(200, np.int64))
    written = write_shard(path, np.arange(200, dtype=np.uint64), tokens, ends, {"meta.u": ["é"] * 200})
    good = path.read_bytes()
    buffers = ShardFile(path, written.digest).buffers
    assert set(buffers) == {
        "id", "tokens.offsets", "tokens.values", "sentence_ends.offsets", "sentence_ends.values",
        "meta.u.offsets", "meta.u.values",
    }  # fmt: skip
    places = 0
    for name, (at, chunks, size) in buffers.items():
        for number in range(len(chunks)):
            for inside in (0, min(1023, size - number * 1024 - 1)):
                path.write_bytes(good)
                flip(path, at + number * 1024 + inside, bit=inside % 8)
                (problem,) = ShardFile(path, written.digest).problems()
                assert f"{path}: {name} chunk {number} " in problem and chunks[number] in problem
                places += 1
    assert places > 30


def test_a_flip_anywhere_in_a_shard_is_found_or_harms_nothing(copy: Path) -> None:
    """Also in Arrow's own framing: what loads has the very buffers that were written."""
    corpus = open_corpus(copy)
    shard = corpus.shards[0]
    path = copy / shard.name
    good = path.read_bytes()
    whole = ShardFile(path).batch.to_pydict()
    draw = np.random.default_rng(1)
    for at in draw.integers(0, len(good), 300).tolist():
        path.write_bytes(good)
        flip(path, at, int(draw.integers(0, 8)))
        try:
            file = ShardFile(path, shard.digest)
            file.check()
        except RunError as error:
            assert str(path) in str(error)
        else:
            assert file.batch.to_pydict() == whole
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(RunError, match="damaged"):
        open_corpus(copy)


def test_flip_is_found_at_the_read_or_at_the_start(copy: Path) -> None:
    shard = open_corpus(copy).shards[0]
    flip(copy / shard.name, shard.values_at + 11)
    with pytest.raises(RunError, match=f"{shard.name}: tokens.values chunk 0"):
        open_corpus(copy)
    stream = open_corpus(copy, verify="read").stream("docs", shard.split)
    with pytest.raises(RunError, match=r"digest [0-9a-f]{32}, written as [0-9a-f]{32}"):
        stream.read(0, 4)
    with pytest.raises(RunError, match="chunk 0"):  # and again, not once only
        stream.read(0, 4)


def test_verify_names_every_place(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify([str(copy)]) == 0
    shards = read_index(copy, read_manifest(copy))
    for shard in shards[:2]:
        flip(copy / shard.name, shard.values_at)
    (copy / shards[2].name).unlink()
    capsys.readouterr()
    assert verify([str(copy), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert len(said["problems"]) == 3
    assert all(shard.name in problem for shard, problem in zip(shards, said["problems"], strict=False))
