"""Raw text in an object store gives the corpus of local files, in bounded memory, and a change is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import object_file, places
from cluster.errors import RunError, UserError
from cluster.object_file import ObjectFile
from cluster.places import ObjectPath
from data_jobs.reading.inputs import cut_splits, list_files
from data_jobs.reading.raw_bytes import Reading, stamp_of
from data_jobs.reading.sources import read_source
from data_jobs.settings import fixed_settings
from data_jobs.state import look
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, source_of
from tests.data_jobs.input_files import KINDS, write_source
from tests.object_store import S3


def send(folder: Path, bucket: str, name: str = "raw") -> ObjectPath:
    place = places.at(bucket) / name
    assert isinstance(place, ObjectPath)
    for file in folder.rglob("*"):
        if file.is_file():
            places.write_bytes(place / file.relative_to(folder).as_posix(), file.read_bytes())
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_of_local_files(s3: S3, bucket: str, tmp_path: Path, kind: str) -> None:
    """With one request in ten failing, in pieces."""
    texts = [text.replace("\n", " ") for text in make_texts(50, 11)]
    said = write_source(tmp_path / "in", kind, texts)
    common = {"split_bytes": 3_000, "tokenizer": {"vocab_size": 400}}
    prepare(settings_for("unused", source=said, **common), tmp_path / "here")
    place = send(tmp_path / "in", bucket)
    s3.fail(10)
    try:
        prepare(settings_for("unused", source={**said, "path": str(place)}, **common), tmp_path / "there")
    finally:
        s3.fail(0)
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "here")


def test_files_folders_and_globs(bucket: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b b.jsonl", "x/ü.jsonl", "x/y/d.jsonl.gz", "n.txt", "__pycache__/e.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    place = send(tmp_path, bucket)

    def names(path: str, **fields: object) -> list[str]:
        return [file.name for file in list_files([source_of(path, **fields)])]

    assert names(f"{place}") == ["a.jsonl", "b b.jsonl", "x/y/d.jsonl.gz", "x/ü.jsonl"]
    assert names(f"{place}/", exclude=["x/"]) == ["a.jsonl", "b b.jsonl"]
    assert names(f"{place}/a.jsonl") == ["a.jsonl"]
    assert names(f"{place}/*.jsonl") == ["a.jsonl", "b b.jsonl"]
    assert names(f"{place}/x/**/*.jsonl*") == ["y/d.jsonl.gz", "ü.jsonl"]
    assert names(f"{place}/?/*.jsonl") == ["x/ü.jsonl"]
    assert names(f"{bucket}/*/n.txt", format="text") == ["raw/n.txt"]
    for path, words in ((f"{place}/none", "no such file"), (f"{place}/*.csv", "no file in")):
        with pytest.raises(UserError, match=f"sources.0.path: .*{words}"):
            list_files([source_of(path)])
    with pytest.raises(UserError, match="no place that is known"):
        list_files([source_of("ftp://somewhere/a.jsonl")])


def test_a_change_is_found_and_named(bucket: str, tmp_path: Path) -> None:
    said = write_source(tmp_path / "in", "jsonl", [f"text {number}" for number in range(50)])
    place = send(tmp_path / "in", bucket)
    settings = settings_for("unused", source={**said, "path": str(place)}, tokenizer={"vocab_size": 330})
    source, object_ = settings.sources[0], place / "all.jsonl"
    (split,) = cut_splits(list_files([source]), [source], 1 << 30)
    items = read_source(split.pieces[0], Reading(), source, 1 << 20)
    next(items)
    good = object_.read_bytes()
    object_.write_bytes(good.replace(b"text 49", b"text 94"))  # as large, maybe in the same second
    with pytest.raises(UserError, match=f"{object_}: changed while it was read"):
        list(items)
    items = read_source(split.pieces[0], Reading(), source, 1 << 20)
    next(items)
    object_.unlink()
    with pytest.raises(UserError, match=f"{object_}: vanished while it was read"):
        list(items)
    with pytest.raises(UserError, match=f"{object_}: cannot be read"):
        list(read_source(split.pieces[0], Reading(), source, 1 << 20))

    def state() -> str:
        return look(tmp_path / "out", fixed_settings(settings), list_files([source]), [source])

    object_.write_bytes(good)
    prepare(settings, tmp_path / "out")
    assert state() == "finished"
    object_.write_bytes(good)  # at another time
    assert state() == "finished"
    object_.write_bytes(good.replace(b"text 49", b"text 94"))
    with pytest.raises(UserError, match="all.jsonl: not among the files"):
        state()


def test_two_versions_of_one_second_and_size_differ(bucket: str) -> None:
    place = places.at(bucket) / "a"
    assert isinstance(place, ObjectPath)
    for _ in range(20):  # until both fall into one second
        found = []
        for data in (b"one", b"two"):
            place.write_bytes(data)
            assert place.stat() == place.parent.stats()["a"]
            found.append((place.stat().st_mtime_ns, stamp_of(str(place))))
        assert found[0][1] != found[1][1]
        if found[0][0] == found[1][0]:
            return
    raise AssertionError("no two in one second")


def test_a_service_that_is_not_there_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("cluster.object_store.TRIES", 1)
    with places.hasty(), pytest.raises(RunError, match=f"{bucket}/raw.* failed"):
        list_files([source_of(f"{bucket}/raw")])


def test_an_object_as_a_file(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Front to back in few requests of bounded size; after a jump no more than is asked for."""
    monkeypatch.setattr(object_file, "AHEAD_BYTES", 4_000)
    monkeypatch.setattr(object_file, "_FIRST_AHEAD", 500)
    place = places.at(bucket) / "numbers"
    assert isinstance(place, ObjectPath)
    data = b"".join(b"%06d\n" % number for number in range(5_000))
    place.write_bytes(data)
    with places.open_seekable(place) as file:
        s3.log()
        assert b"".join(iter(lambda: file.read(100), b"")) == data
        ranges = [r for method, _, r in s3.log() if method == "GET"]
        sizes = [int(b) - int(a) + 1 for a, b in (r.removeprefix("bytes=").split("-") for r in ranges)]
        assert max(sizes) == 4_000 and len(sizes) < 15
        for at, size in ((30_000, 50), (7, 9), (34_990, 100), (40_000, 5), (0, 0)):
            assert file.seek(at) == at == file.tell()
            s3.log()
            assert file.read(size) == data[at : at + size]
            asked = [r for method, _, r in s3.log() if method == "GET"]
            assert len(asked) <= 1
        assert file.seek(-7, 2) == len(data) - 7 and file.read() == data[-7:]
        file.seek(0)
        assert file.read() == data
        buffer = bytearray(10)
        file.seek(3)
        assert file.readinto(buffer) == 10 and bytes(buffer) == data[3:13]  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError):
        ObjectFile(place / "none")


def test_a_large_object_is_read_by_ranges(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece asks for its own bytes, a line more at either end, and never for the whole."""
    monkeypatch.setattr("data_jobs.reading.raw_bytes.BLOCK_BYTES", 1_000)
    monkeypatch.setattr(object_file, "AHEAD_BYTES", 2_000)
    monkeypatch.setattr(object_file, "_FIRST_AHEAD", 500)
    said = write_source(tmp_path / "in", "jsonl", [f"{number} {'pad ' * 20}" for number in range(1_000)])
    place = send(tmp_path / "in", bucket)
    source = source_of(**{**said, "path": str(place)})
    splits = cut_splits(list_files([source]), [source], 10_000)
    assert len(splits) > 9
    s3.log()
    count = sum(
        1
        for split in splits
        for piece in split.pieces
        for _ in read_source(piece, Reading(), source, 1 << 20)
    )
    assert count == 1_000
    asked = 0
    for method, _, wanted in s3.log():
        if method == "GET":
            first, last = wanted.removeprefix("bytes=").split("-")
            assert int(last) - int(first) < 2_000
            asked += int(last) - int(first) + 1
    assert asked < 2 * (place / "all.jsonl").stat().st_size
