"""Cleaning and filters in the whole flow: the ledger adds up, and nothing else than the texts decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from data_jobs.clean_task import clean_split
from data_jobs.reading.inputs import cut_splits, list_files
from data_jobs.settings import fixed_settings
from data_jobs.state import look
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl
from tests.data_jobs.filters.test_filter_rules import PROSE
from tests.data_jobs.test_pipeline import documents

FILTERS = {
    "gopher_repetition": {}, "gopher_quality": {"min_words": 20, "min_stop_words": 1},
    "c4": {"min_sentences": 2},
    "fineweb": {}, "length": {"min_characters": 100}, "language": {"keep": ["en"], "min_score": 0.2},
}  # fmt: skip
SMALL = {"shard_bytes": 8_000, "val_fraction": 0.1}


@pytest.fixture(scope="module")
def mixed() -> list[str]:
    prose = [f"Report {n} begins here. {PROSE} It ends with number {n}." for n in range(60)]
    edited = [
        f"Menu\n{text}\nAsk jane{n}@mail.org for more of the news from here.\nHome"
        for n, text in enumerate(prose[:20])
    ]
    return [*make_texts(60), *prose, *edited, "Menu\nHome\n" * 20, "short", "  ", "x \r\n" * 300]


def test_the_ledger_adds_up(tmp_path: Path, mixed: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", mixed)
    clean = {"private_data": ["email"], "white_space": ["runs", "trailing"]}
    settings = settings_for(path, **SMALL, filters=FILTERS, clean=clean, split_bytes=30_000)
    manifest = prepare(settings, tmp_path / "out")
    stages = {row["stage"]: row for row in manifest["stages"]}
    assert list(stages) == ["read", "clean", "filter", "encode", "deduplicate"]
    for row in [*manifest["stages"], manifest["counts"]]:
        for unit, removed in (("documents", 0), ("bytes", row["bytes"]["removed"])):
            part = row[unit]
            assert part["in"] + part["added"] == part["out"] + sum(part["dropped"].values()) + removed
    dropped = stages["filter"]["documents"]["dropped"]
    assert {reason.split("_")[0] for reason in dropped} >= {"length", "language", "gopher"}
    assert stages["filter"]["documents"]["in"] == len(mixed) - 1
    assert stages["filter"]["bytes"]["removed"] > 0  # lines of menus
    found = documents(tmp_path / "out")
    assert stages["filter"]["documents"]["out"] == len(found) + stages["deduplicate"]["documents"][
        "dropped"
    ].get("duplicate", 0)
    assert any("Ask <email> for more" in text for text in found)
    assert not any("Menu" in text or "@" in text for text in found)

    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    email = report["changes"]["email"]
    assert (email["documents"], email["count"], email["bytes_added"]) == (20, 20, 0)
    assert report["changes"]["line_ends"]["count"] == 300
    assert report["histograms"]["language"] == {"en": stages["filter"]["documents"]["out"]}
    assert sum(report["histograms"]["words_log2"].values()) == stages["filter"]["documents"]["out"]
    rejected = [
        json.loads(line) for line in (tmp_path / "out" / "rejected" / "docs.jsonl").read_text().splitlines()
    ]
    assert set(dropped) <= {row["reason"] for row in rejected}
    assert all(row["detail"] and row["line"] for row in rejected)


def test_equal_over_cuts(tmp_path: Path, mixed: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", mixed)
    expected = None
    for number, size in enumerate((5_000, 1 << 20)):
        settings = settings_for(path, **SMALL, filters=FILTERS, split_bytes=size)
        prepare(settings, tmp_path / f"out{number}")
        expected = expected or fingerprint(tmp_path / f"out{number}")
        assert fingerprint(tmp_path / f"out{number}") == expected


def test_without_filters_everything_passes(tmp_path: Path, mixed: list[str]) -> None:
    manifest = prepare(settings_for(write_jsonl(tmp_path / "in.jsonl", mixed), **SMALL), tmp_path / "out")
    row = next(row for row in manifest["stages"] if row["stage"] == "filter")
    assert row["documents"] == {"in": len(mixed) - 1, "added": 0, "out": len(mixed) - 1, "dropped": {}}
    assert row["bytes"]["removed"] == 0


def clean_job(tmp_path: Path, settings: Any, **more: Any) -> dict[str, Any]:
    (split,) = cut_splits(list_files(settings.sources), settings.sources, 1 << 26)
    return clean_split(
        {
            "settings": settings.model_dump(mode="json"),
            "split": split.to_json(),
            "folder": str(tmp_path / "runs"),
            **more,
        }
    )


def test_a_later_stage_may_filter(tmp_path: Path, mixed: list[str]) -> None:
    settings = settings_for(write_jsonl(tmp_path / "in.jsonl", mixed), filters=FILTERS)
    here, later = (clean_job(tmp_path, settings, filter=here) for here in (True, False))
    assert later["clean"] == here["clean"]
    assert later["filter"]["documents"]["out"] == later["clean"]["documents"]["out"]
    assert here["filter"]["documents"]["out"] < here["clean"]["documents"]["out"]


def test_drops_of_filters_are_no_bad_records(tmp_path: Path, mixed: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", mixed)
    prepare(settings_for(path, filters=FILTERS, max_bad_fraction=0, on_bad="fail"), tmp_path / "out")
    nothing = settings_for(path, filters={"length": {"min_characters": 10**6}})
    with pytest.raises(UserError, match=r"no document is left.*length few characters|length_few_characters"):
        prepare(nothing, tmp_path / "none")


def test_other_filters_are_another_corpus(tmp_path: Path, mixed: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", mixed)
    settings = settings_for(path, **SMALL, filters=FILTERS)
    prepare(settings, tmp_path / "out")
    other = settings_for(path, **SMALL, filters={**FILTERS, "fineweb": None})
    files = list_files(settings.sources)
    assert look(tmp_path / "out", fixed_settings(settings), files, settings.sources) == "finished"
    with pytest.raises(UserError, match="corpus.filters.fineweb was"):
        look(tmp_path / "out", fixed_settings(other), files, other.sources)


def test_a_source_of_code_is_cleaned_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x  =  'me@here.org'  \n\n\n\n\ny = 1\n" + "# a line\n" * 40)
    clean = {"private_data": ["email"], "white_space": ["runs"]}
    found = {}
    for name, own in (("plain", {}), ("asked", {"private_data": ["email"]})):
        source = {"format": "code", "clean": own}
        settings = settings_for(tmp_path / "code", source=source, clean=clean, val_fraction=0.0)
        found[name] = clean_job(tmp_path, settings)["changes"]
    assert found["plain"] == {} and list(found["asked"]) == ["email"]
