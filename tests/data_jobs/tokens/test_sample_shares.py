"""What the tokenizer is trained on: each source's share by weight, and what the report says of it after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_jobs.settings import CorpusSettings
from data_jobs.tokens.sample import training_texts
from data_jobs.tokens.sample_shares import sample_shares, weighted_texts
from tests.data_jobs.conftest import make_texts, prepare, write_jsonl


@pytest.mark.parametrize(
    ("weights", "sizes", "expected"),
    [
        ([None, None], [10, 30], None),
        ([1.0, None], [0, 0], None),
        ([3.0, 1.0], [10, 90], [750, 250]),
        ([0.5, None], [50, 50], [500, 500]),  # half of the bytes
        ([1.0, 1.0, 2.0], [10, 0, 10], [333, 0, 666]),
        ([1e-9, 1.0], [5, 5], [1, 999]),
    ],
)
def test_shares(weights: list[float | None], sizes: list[int], expected: list[int] | None) -> None:
    assert sample_shares(weights, sizes, 1000) == expected


def english(number: int) -> list[str]:
    return [text.replace("海", "sea") for text in make_texts(number)]


def settings_for(tmp_path: Path, **weights: float) -> CorpusSettings:
    chinese = ["今天下雨明天呢船在海上走海在船下流。" * 4 + chr(0x4E00 + i) * 3 for i in range(150)]
    write_jsonl(tmp_path / "en.jsonl", english(150))
    write_jsonl(tmp_path / "zh.jsonl", chinese)
    sources: list[dict[str, Any]] = [
        {"name": name, "path": str(tmp_path / f"{name}.jsonl")}
        | ({"weight": weights[name]} if weights else {})
        for name in ("en", "zh")
    ]
    return CorpusSettings.model_validate(
        {"sources": sources, "tokenizer": {"vocab_size": 600, "sample_bytes": 9_000}}
    )


def test_the_sample_follows_the_weights_and_not_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[tuple[Any, ...], list[str]] = {}

    def watch(*args: Any) -> list[str]:
        texts = weighted_texts(*args)
        found[key] = texts
        return texts

    monkeypatch.setattr("data_jobs.tokens.tokenizer_making.weighted_texts", watch)
    for weights in ({"en": 9.0, "zh": 1.0}, {"en": 1.0, "zh": 9.0}):
        for split_bytes in (20_000, 1 << 20):
            key = (weights["en"], split_bytes)
            settings = settings_for(tmp_path, **weights).model_copy(update={"split_bytes": split_bytes})
            prepare(settings, tmp_path / f"out-{key[0]}-{split_bytes}")
    for wanted, share in ((9.0, 0.9), (1.0, 0.1)):
        one, other = found[wanted, 20_000], found[wanted, 1 << 20]
        assert one == other
        size = sum(len(text.encode()) for text in one)
        of_english = sum(len(text.encode()) for text in one if "。" not in text)
        assert size <= 9_000 and of_english / size == pytest.approx(share, abs=0.02)


def test_without_weights_it_is_the_first_of_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    asked: list[int] = []

    def watch(runs: Any, sample_bytes: int) -> list[str]:
        asked.append(sample_bytes)
        return training_texts(runs, sample_bytes)

    monkeypatch.setattr("data_jobs.tokens.sample_shares.training_texts", watch)
    prepare(settings, tmp_path / "plain")
    prepare(settings_for(tmp_path, en=1.0, zh=2.0), tmp_path / "weighted")
    assert asked == [9_000, 3_000, 6_000]


def test_the_report_says_how_the_tokenizer_fits_each_source(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, en=1e9, zh=1.0)  # so that Chinese is spelled in bytes
    manifest = prepare(settings, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())["tokenizer"]
    english_, chinese = report["sources"]["en"], report["sources"]["zh"]
    assert chinese["byte_token_share"] > 0.9 > 0.1 > english_["byte_token_share"]
    assert english_["bytes_per_token"] > 2 > 1.1 > chinese["bytes_per_token"] >= 1
    assert english_["bytes_per_token"] > report["bytes_per_token"] > chinese["bytes_per_token"]
    assert report["unknown_token_share"] == 0 and report["vocab_size"] == manifest["tokenizer"]["vocab_size"]
