"""Images through the whole flow: pixels in, tokens, the same pixels out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from cluster.errors import RunError, UserError
from data_jobs import open_corpus
from data_jobs.prepare import warnings_of
from data_jobs.reading import palette
from data_jobs.reading.palette import nearest, palette_of
from data_jobs.settings import CorpusSettings, most_entries
from data_jobs.tokens.tokenizer import load_tokenizer
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer, pixel_tokenizer
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, write_jsonl
from tests.data_jobs.drawn import write_shapes

Array = npt.NDArray[np.uint8]


def settings_for(path: Path, channels: int = 1, **changes: Any) -> CorpusSettings:
    source = {"name": "shapes", "path": str(path), "format": "images", "size": [8, 8], "channels": channels}
    return CorpusSettings.model_validate({"sources": [source], "val_fraction": 0.1, **changes})


def images_of(out: Path) -> list[Array]:
    """All images of a corpus."""
    corpus = open_corpus(out)
    tokenizer = corpus.tokenizer
    assert isinstance(tokenizer, PixelTokenizer)
    found = []
    for split in ("train", "val"):
        if not corpus.sources(split):
            continue
        stream = corpus.stream("shapes", split)
        ids = stream.read(0, stream.tokens)
        ends = np.flatnonzero(ids == tokenizer.eos_id)
        assert np.array_equal(ends % (tokenizer.pixels + 1), np.full(len(ends), tokenizer.pixels))
        found += [tokenizer.image(part) for part in np.split(ids, ends + 1)[:-1]]
    return found


def as_set(images: list[Array]) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_gray_images_come_back_exactly(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "in" / "deep", 60)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG no")
    settings = settings_for(tmp_path / "in", max_bad_fraction=0.1)
    manifest = prepare(settings, tmp_path / "out")
    assert as_set(images_of(tmp_path / "out")) == as_set(shapes)
    counts = manifest["counts"]
    assert counts["documents"]["in"] == 61
    assert counts["documents"]["dropped"]["damaged_image"] == 1
    assert counts["documents"]["out"] == len(as_set(shapes))
    [source] = manifest["sources"]
    assert (source["sentence_rule"], source["metadata"]) == ("whole-1", ["path"])
    rejected = (tmp_path / "out/rejected/shapes.jsonl").read_text()
    assert "broken.png" in rejected and "damaged_image" in rejected
    assert warnings_of(settings, manifest) == []
    assert manifest["tokenizer"]["vocab_size"] == most_entries(settings) == 258
    # Nothing but the images decides.
    write_shapes(tmp_path / "again" / "deep", 60)
    prepare(settings_for(tmp_path / "again", split_bytes=500), tmp_path / "again-out")
    old, new = fingerprint(tmp_path / "out"), fingerprint(tmp_path / "again-out")
    assert old.keys() == new.keys()
    assert [name for name in old if old[name] != new[name]] == ["manifest.json"]  # it counts the broken one


def test_few_levels_are_the_nearest_ones(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "in", 20)
    prepare(settings_for(tmp_path / "in", tokenizer={"levels": 4}), tmp_path / "out")
    near = [(np.rint(shape / 85) * 85).astype(np.uint8) for shape in shapes]
    assert as_set(images_of(tmp_path / "out")) == as_set(near)


def test_colours_of_a_palette_that_holds_them_all(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "in", 12, channels=3)
    settings = settings_for(tmp_path / "in", channels=3, tokenizer={"colors": 64}, val_fraction=0.0)
    manifest = prepare(settings, tmp_path / "out")
    assert as_set(images_of(tmp_path / "out")) == as_set(shapes)
    kinds = {tuple(pixel) for shape in shapes for pixel in shape.reshape(-1, 3).tolist()}
    assert manifest["tokenizer"]["vocab_size"] == len(kinds) + 2 < most_entries(settings) == 66


def test_a_palette_is_a_function_of_pixels_and_seed() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5000, 3), np.uint8)
    one, again, other = (palette_of(pixels, 32, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.dtype == np.uint8 and 24 <= len(one) <= 32

    def error(colors: Array) -> float:
        return float(((pixels - colors[nearest(pixels, colors)].astype(float)) ** 2).sum(1).mean())

    drawn = pixels[:32]
    assert error(one) < 0.8 * error(drawn)
    few = np.array([[1, 2, 3], [9, 9, 9], [1, 2, 3]], np.uint8)
    assert palette_of(few, 8, 0).tolist() == [[1, 2, 3], [9, 9, 9]]


def test_a_large_sample_is_thinned_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette, "SAMPLE", 300)
    pixels = np.random.default_rng(3).integers(0, 256, (5000, 3), np.uint8)
    assert np.array_equal(palette_of(pixels, 16, 5), palette_of(pixels, 16, 5))
    assert not np.array_equal(palette_of(pixels, 16, 5), palette_of(pixels, 16, 6))


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.just(3))),
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(3))),
)
def test_nearest_is_the_nearest(points: Array, colors: Array) -> None:
    distances = ((points[:, None].astype(int) - colors[None].astype(int)) ** 2).sum(2)
    assert nearest(points, colors).tolist() == distances.argmin(1).tolist()


@pytest.mark.parametrize(("channels", "colors"), [(1, 256), (1, 2), (1, 7), (3, 20)])
def test_text_tokens_and_ends(channels: int, colors: int, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (3, 4, 5, channels), np.uint8)
    texts = [image.tobytes().decode("latin-1") for image in values]
    tokenizer = pixel_tokenizer((4, 5), channels, colors, texts)
    assert tokenizer.lossless == (colors == 256)
    for image, text, (ids, ends) in zip(values, texts, tokenizer.encode_with_ends(texts), strict=True):
        assert len(ids) == len(ends) == 20 and ends[-1] == len(text.encode())
        spelled = [len(text[channels * i : channels * (i + 1)].encode()) for i in range(20)]
        assert np.diff(ends, prepend=0).tolist() == spelled
        assert ids.tolist() == tokenizer.encode(text).tolist() and ids.min() >= 2
        assert tokenizer.decode(ids) == tokenizer.image(ids).tobytes().decode("latin-1")
        if tokenizer.lossless:
            assert np.array_equal(tokenizer.image(ids), image)
            assert tokenizer.piece_lengths[ids].tolist() == spelled
    tokenizer.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):  # noqa: S301 (our own)
        assert (other.fingerprint, other.specials) == (tokenizer.fingerprint, {"pad": 0, "eos": 1})
        assert [ids.tolist() for ids in other.encode_batch(texts)] == [
            ids.tolist() for ids in tokenizer.encode_batch(texts)
        ]


def test_a_part_of_an_image_is_filled_up_with_white() -> None:
    tokenizer = pixel_tokenizer((2, 2), 1, 256)
    image = tokenizer.image([2, 257, 1, 3, 900])
    assert image[:, :, 0].tolist() == [[0, 255], [1, 255]]


@pytest.mark.parametrize("text", ["abc", "海", "abcde"])
def test_a_text_that_is_no_image(text: str) -> None:
    with pytest.raises(UserError, match=r"no image of 2 x 2 pixels"):
        pixel_tokenizer((2, 2), 1, 256).encode(text)


def test_a_damaged_file(tmp_path: Path) -> None:
    for value in ("", "{}", '{"size": [2, 2], "palette": []}', '{"size": [2, 2], "palette": [[1], [2, 3]]}'):
        (tmp_path / "pixels.json").write_text(value)
        with pytest.raises(RunError, match="damaged"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("second", "changes", "says"),
    [
        ({"format": "text"}, {}, "of images or of texts: 'shapes' has format images, 'b' has not"),
        (
            {"format": "images", "size": [8, 9]},
            {},
            r"'shapes' has size \[8, 8\] with 1 channels, 'b' \[8, 9\]",
        ),
        ({"format": "images", "size": [0, 9]}, {}, "each from 1 to 4096 pixels"),
        (None, {"max_document_bytes": 1024}, r"size \[64, 64\] with 1 channels takes up to 8,192 bytes"),
        (None, {"dedup": "minhash"}, "dedup: minhash is about words"),
        (None, {"repeats": {"lines": True}}, "repeats is about words"),
        (None, {"decontaminate": {"files": ["q.jsonl"]}}, "decontaminate is about words"),
    ],
)
def test_settings_that_do_not_fit(second: dict[str, Any] | None, changes: Any, says: str) -> None:
    side = 64 if second is None else 8
    sources: list[Any] = [
        {"name": "shapes", "path": "x", "format": "images", "size": [side, side], "channels": 1}
    ]
    if second is not None:
        sources.append({"name": "b", "path": "y", **second})
    with pytest.raises(ValidationError, match=says):
        CorpusSettings.model_validate({"sources": sources, **changes})


def test_a_tokenizer_that_is_there_must_fit(tmp_path: Path) -> None:
    write_shapes(tmp_path / "in", 9)
    given = tmp_path / "given"
    pixel_tokenizer((8, 8), 1, 16).save(given)
    manifest = prepare(settings_for(tmp_path / "in", tokenizer={"path": str(given)}), tmp_path / "out")
    assert manifest["tokenizer"]["vocab_size"] == 18
    assert json.loads((tmp_path / "out/report.json").read_bytes())["tokenizer"]["kind"] == "pixels"
    with pytest.raises(UserError, match=r"images of 8 x 8 pixels with 1 channels.*channels 3"):
        prepare(settings_for(tmp_path / "in", 3, tokenizer={"path": str(given)}), tmp_path / "out3")
    texts = write_jsonl(tmp_path / "in.jsonl", make_texts(20))
    of_texts = CorpusSettings.model_validate(
        {"sources": [{"name": "t", "path": str(texts)}], "tokenizer": {"path": str(given)}}
    )
    with pytest.raises(UserError, match="a tokenizer of pixels, and no source has format images"):
        prepare(of_texts, tmp_path / "out4")
