"""Compressed input: members one after the other, damage, and few bytes that stand for many."""

from __future__ import annotations

import gzip
import lzma
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, compression, read_blocks
from tests.data_jobs.conftest import read
from tests.data_jobs.input_files import PACK

ENDS = [".gz", ".zst", ".xz"]
LINES = [b'{"text": "%d %d"}' % (i, i * 7919 % 100_003) for i in range(30_000)]
DATA = b"\n".join(LINES) + b"\n"


def write(folder: Path, data: bytes) -> Path:
    path = folder / "a name that says nothing"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("end", ENDS)
def test_members_one_after_the_other(tmp_path: Path, end: str) -> None:
    half = 100_003  # in the middle of a line
    data = PACK[end](DATA[:half]) + PACK[end](b"") + PACK[end](DATA[half:])
    path = write(tmp_path, data + (b"" if end == ".zst" else b"\0" * 512))
    records, rejects, reading = read(path)
    assert len(records) == len(LINES) and not rejects and reading.damage is None
    assert reading.bytes_read == len(DATA)
    assert compression(path) == {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}[end]


def test_frames_to_be_skipped(tmp_path: Path) -> None:
    """Parallel zstd writes them before each frame."""
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    path = write(
        tmp_path, skipped + zstandard.compress(DATA[:1000]) + skipped + zstandard.compress(DATA[1000:])
    )
    assert b"".join(read_blocks(Piece(str(path)), Reading())) == DATA


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage behind"])
def test_good_records_before_the_damage_are_kept(tmp_path: Path, end: str, damage: str) -> None:
    packed = PACK[end](DATA)
    at = len(packed) * 3 // 4
    data = {
        "truncated": packed[:at],
        "flipped": packed[:at] + b"\xff\xff\xff" + packed[at + 3 :],
        "garbage behind": packed + b"garbage behind it",
    }[damage]
    records, rejects, reading = read(write(tmp_path, data))
    assert reading.damage and rejects[-1].reason == "damaged_file"
    assert rejects[-1].place.line == reading.lines + 1
    if damage != "flipped":
        assert len(rejects) == 1
    if damage == "garbage behind":
        assert len(records) == len(LINES)
        return
    sure = 10_000  # zstd and xz lose a block
    assert [record.text.encode() for record in records[:sure]] == [line[10:-2] for line in LINES[:sure]]
    assert len(records) < len(LINES) or damage == "flipped"


@pytest.mark.parametrize("end", ENDS)
def test_a_truncation_anywhere_is_found(tmp_path: Path, end: str) -> None:
    lines = [b'{"text": "a %d"}' % number for number in range(30)]
    packed = PACK[end](b"\n".join(lines))
    for stop in range(len(packed)):
        records, rejects, reading = read(write(tmp_path, packed[:stop]))
        if stop < 6:  # too short to be known as what it is
            assert len(records) == 0 and len(rejects) <= 1
        else:
            assert reading.damage and rejects[-1].reason == "damaged_file", stop
        assert [record.text for record in records] == [f"a {number}" for number in range(len(records))]


@pytest.mark.parametrize("end", ENDS)
def test_a_damaged_end_of_a_checksum(tmp_path: Path, end: str) -> None:
    packed = (
        zstandard.ZstdCompressor(write_checksum=True).compress(DATA) if end == ".zst" else PACK[end](DATA)
    )
    at = {".gz": 6, ".zst": 2, ".xz": 40}[end]
    data = bytearray(packed)
    data[-at] ^= 0x10
    _, rejects, reading = read(write(tmp_path, bytes(data)))
    assert reading.damage and rejects[-1].reason == "damaged_file"


def zeros_gz(size: int) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for _ in range(size >> 20):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


def zeros_zst(size: int) -> Iterator[bytes]:
    packer = zstandard.ZstdCompressor().compressobj()
    for _ in range(size >> 20):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


def zeros_xz(size: int) -> Iterator[bytes]:
    packer = lzma.LZMACompressor(preset=0)
    for _ in range(size >> 20):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


@pytest.mark.parametrize("zeros", [zeros_gz, zeros_zst, zeros_xz], ids=ENDS)
def test_a_bomb_stays_in_bounded_memory(tmp_path: Path, zeros: Callable[[int], Iterator[bytes]]) -> None:
    size = 200 << 20
    path = write(tmp_path, b"".join(zeros(size)))
    assert path.stat().st_size < size // 200
    reading = Reading()
    largest = max(len(block) for block in read_blocks(Piece(str(path)), reading))
    assert largest <= 17 << 20 and reading.bytes_read == size
    tracemalloc.start()
    records, rejects, _ = read(path, 1 << 20)  # one line of 200 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert records == [] and [(r.reason, r.raw_bytes) for r in rejects] == [("too_long", size)]
    assert peak < 80 << 20


def test_a_window_of_xz_above_the_bound_is_damage(tmp_path: Path) -> None:
    """A header may ask for 4 GB."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 12}]
    packed = bytearray(
        lzma.compress(b"x" * 100, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters)
    )
    assert packed[12] == 2  # block header of 12 bytes, at 12
    packed[16] = 40  # the largest dictionary
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    with pytest.raises(DamagedFile, match="xz: .*[Mm]emory"):
        list(read_blocks(Piece(str(write(tmp_path, bytes(packed)))), Reading()))


def test_a_line_of_200_mb(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "first"}\n{"text": "')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "last"}\n')
    tracemalloc.start()
    records, rejects, reading = read(path, 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record.text for record in records] == ["first", "last"]
    assert [(reject.reason, reject.place.line) for reject in rejects] == [("too_long", 2)]
    assert peak < 40 << 20 and reading.bytes_read == path.stat().st_size


def test_gzip_of_many_small_members(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(gzip.compress(line + b"\n") for line in LINES[:2000]))
    assert len(read(path)[0]) == 2000
