"""Places of both kinds do the same, and an object store that fails now and then is no other place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import object_store, places
from cluster.errors import RunError, UserError
from cluster.object_store import ObjectPath
from cluster.places import Place, PlaceError
from tests.object_store import FAULTS, S3


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PAUSE_SECONDS", 0.02)


def test_names(tmp_path: Path) -> None:
    path = places.at("s3://bucket/a/b.json")
    assert isinstance(path, ObjectPath)
    assert (str(path), path.name, str(path.parent)) == ("s3://bucket/a/b.json", "b.json", "s3://bucket/a")
    assert str(path.parent / "c" / "d") == "s3://bucket/a/c/d"
    assert [str(p) for p in path.parents] == ["s3://bucket/a", "s3://bucket"]
    assert str(path.with_name("x")) == "s3://bucket/a/x"
    assert places.absolute("S3://bucket/a//b/") == places.at("s3://bucket/a/b")
    assert places.absolute("a") == Path("a").absolute() and places.at(tmp_path) is tmp_path
    assert not places.is_remote("a/s3") and places.is_remote("gs://x")


@pytest.mark.parametrize("text", ["ftp://host/x", "s3:///x", "http://bucket", "s3://b/../x"])
def test_other_uris_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=text):
        places.at(text)


def test_both_kinds_do_the_same(place: Place) -> None:
    file = place / "a" / "file.json"
    assert not file.exists() and not file.is_file() and not (place / "a").exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(FileNotFoundError):
        file.stat()
    places.write_bytes(file, b"one")
    places.write_bytes(file, b"0123456789")
    assert file.read_bytes() == b"0123456789" and file.stat().st_size == 10 and file.stat().st_mtime_ns > 1e18
    assert places.read_range(file, 3, 4) == b"3456" and places.read_range(file, 8, 4) == b"89"
    assert places.read_tail(file, 3) == b"789" and places.read_tail(file, 30) == b"0123456789"
    assert (place / "a").is_dir() and not (place / "a").is_file() and file.is_file() and not file.is_dir()
    places.write_json(place / "a" / "b" / "x", 1)
    places.write_json(place / "ab", 1)
    assert sorted(child.name for child in (place / "a").iterdir()) == ["b", "file.json"]
    assert sorted(str(child) for child in place.glob("a*")) == [str(place / "a"), str(place / "ab")]
    assert [str(child) for child in place.glob("*/b/x")] == [str(place / "a/b/x")]
    size_of = places.size_of(place / "a")
    assert size_of("file.json") == 10 and size_of("none") is None
    places.move(place / "a", place / "c")
    assert not (place / "a").exists() and (place / "c/b/x").read_bytes() == b"1\n"
    places.delete_tree(place / "c")
    places.delete_tree(place / "c")
    assert [child.name for child in place.iterdir()] == ["ab"]
    (place / "ab").unlink()
    (place / "ab").unlink(missing_ok=True)


def test_a_file_can_be_created_once(place: Place) -> None:
    assert places.create(place / "x", b"mine")
    assert not places.create(place / "x", b"other")
    assert (place / "x").read_bytes() == b"mine"


def test_a_creation_by_a_link_whose_answer_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again, and then finds the link that it has made."""
    link = os.link

    def asked_twice(one: str, other: Path) -> None:
        link(one, other)
        link(one, other)

    monkeypatch.setattr(os, "link", asked_twice)
    assert places.create(tmp_path / "x", b"mine")
    assert not places.create(tmp_path / "x", b"other")
    assert [file.name for file in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"mine"


def test_what_was_there_and_is_gone_was_not_created(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = places.at(bucket) / "x"
    places.write_bytes(path, b"other")

    def gone(self: ObjectPath) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(ObjectPath, "read_bytes", gone)
    assert not places.create(path, b"mine")


def test_the_tail_of_nothing(s3: S3, place: Place) -> None:
    places.write_bytes(place / "x", b"")
    s3.log()
    assert places.read_tail(place / "x", 100) == b""
    assert len(s3.log()) <= 2, "asked again in vain"
    with pytest.raises(FileNotFoundError):
        places.read_tail(place / "y", 100)


def test_what_cannot_be_copied_is_said_before_anything_moves(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "COPY_BYTES", 10)
    for name, size in (("a", 10), ("b", 11)):
        places.write_bytes(f"{bucket}/x/{name}", b"x" * size)
    with pytest.raises(
        UserError, match=f"{bucket}/x/b: 11 bytes, more than the 10 .* nothing of {bucket}/x was"
    ):
        places.move(places.at(f"{bucket}/x"), places.at(f"{bucket}/y"))
    assert sorted(str(child) for child in places.at(bucket).glob("*/*")) == [f"{bucket}/x/a", f"{bucket}/x/b"]


def test_a_local_file_that_is_missing_is_named(bucket: str, tmp_path: Path) -> None:
    path = places.at(bucket) / "x"
    assert isinstance(path, ObjectPath)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
        path.write_file(tmp_path / "none")


def test_in_haste_it_gives_up_soon(s3: S3, bucket: str) -> None:
    before = s3.fail(1)
    try:
        with places.hasty(), pytest.raises(PlaceError, match="reading failed 2 times"):
            places.at(f"{bucket}/x").read_bytes()
        assert s3.fail(1) - before <= 2 * 2
        with pytest.raises(PlaceError, match="reading failed 5 times"):
            places.at(f"{bucket}/x").read_bytes()
    finally:
        s3.fail(0)


def test_a_large_file_is_there_whole_or_not(place: Place) -> None:
    """Written in parts; what raises in the middle leaves nothing."""
    data = bytes(range(256)) * (9 << 12)  # 9 MiB: two parts
    places.write_bytes(place / "here", b"")

    def write(sink: places.Sink) -> str:
        for start in range(0, len(data), 1 << 20):
            sink.write(memoryview(data)[start : start + (1 << 20)])
        return "made"

    assert places.write_with(place / "large", write, len(data)) == "made"
    assert (place / "large").read_bytes() == data

    def fail(sink: places.Sink) -> None:
        write(sink)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        places.write_with(place / "other", fail, len(data))
    assert sorted(child.name for child in place.iterdir()) == ["here", "large"]


def test_folders_come_and_go_whole(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_bytes(b"x" * 1000)
    (tmp_path / "a/last").write_bytes(b"y")
    there = places.at(bucket) / "f"
    assert isinstance(there, ObjectPath)
    places.send_folder(tmp_path / "a", there, "last")
    places.fetch_folder(there, tmp_path / "c")
    assert (tmp_path / "c/b/x").read_bytes() == b"x" * 1000 and (tmp_path / "c/last").read_bytes() == b"y"


@pytest.mark.parametrize(("every", "times"), [(2, 3), (7, 10)])
def test_faults_are_tried_again(s3: S3, bucket: str, every: int, times: int) -> None:
    """Each second or seventh request fails: nothing is lost, nothing is there that was not written."""
    place, large = places.at(bucket), bytes(range(256)) * (9 << 12)
    with s3.failing(every):
        for number in range(times):
            places.write_bytes(place / f"{number}", str(number).encode())
            assert places.create(place / "once" / f"{number}", b"mine"), "its answer was lost, not its effect"
            assert not places.create(place / "once" / f"{number}", b"other")
            assert places.read_range(place / f"{number}", 0, 9) == str(number).encode()
        places.write_with(place / "large", lambda sink: sink.write(large), len(large))
        assert (place / "large").read_bytes() == large
        assert len(list(place.iterdir())) == times + 2
        places.delete_tree(place / "once")
    assert not (place / "once").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_creation_whose_answer_is_lost_is_known_for_ones_own(s3: S3, bucket: str, fault: str) -> None:
    """obstore does not try a creation again by itself: that the object is there may be its own doing."""
    for number, data in enumerate((b"mine", b"other")):
        s3.fail_next_put(fault)
        assert places.create(places.at(f"{bucket}/x"), data) == (number == 0)
    assert places.at(f"{bucket}/x").read_bytes() == b"mine"


def test_an_outage_that_outlasts_the_tries_of_obstore(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole operation is tried again after a pause; here the store is well again by then."""

    class Pause:
        def wait(self, seconds: float) -> None:
            s3.fail(0)

    monkeypatch.setattr(object_store, "_pause", Pause())
    s3.fail(1)
    assert places.write_with(places.at(f"{bucket}/x"), lambda sink: sink.write(b"abc"), 3)
    assert places.at(f"{bucket}/x").read_bytes() == b"abc"


def test_what_stays_away_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: S3
) -> None:
    """Place, operation, what to check; and as an OSError it goes where those go."""
    with pytest.raises(RunError, match="s3://nothing-here/x: writing failed: there is no bucket"):
        places.write_bytes("s3://nothing-here/x", b"")
    with pytest.raises(OSError, match="s3://nothing-here: listing failed: there is no bucket"):
        list(places.at("s3://nothing-here").iterdir())
    monkeypatch.setattr(object_store, "TRIES", 2)
    s3.fail(1)
    try:
        with pytest.raises(
            PlaceError, match=f"{bucket}/x: reading failed 2 times in .* check the network"
        ) as e:
            places.at(f"{bucket}/x").read_bytes()
    finally:
        s3.fail(0)
    assert e.value.strerror.startswith("reading failed")


def test_credentials_of_a_profile(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of ~/.aws are found where the environment has none."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    object_store._store.cache_clear()
    places.write_bytes(f"{bucket}/x", b"x")
    object_store._store.cache_clear()


def test_importing_places_is_light() -> None:
    code = "import sys, cluster.places; assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
