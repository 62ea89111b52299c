"""Repeated lines and paragraphs beside plain Python, however the input is cut."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_jobs.content import Placement, content_hash
from data_jobs.dedup import repeat_tasks, rewrite_task
from data_jobs.dedup.rewrite_task import without
from data_jobs.key_ranges import KeyedWriter, Range
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl
from tests.data_jobs.dedup.dedup_reference import plain_words, random_text
from tests.data_jobs.dedup.test_text_kernels import plain_units
from tests.data_jobs.test_pipeline import documents

SMALL: dict[str, Any] = {"shard_bytes": 8_000, "val_fraction": 0.1}


def site(seed: int = 0) -> list[str]:
    """Documents with a menu, a notice in some, a paragraph that some share, and two that are nothing else."""
    draw = random.Random(seed)
    shared = [random_text(draw, 30) for _ in range(4)]
    texts = []
    for number in range(90):
        body = [random_text(draw, draw.randint(10, 40)) for _ in range(draw.randint(1, 4))]
        if number % 9 == 0:
            body.insert(draw.randrange(len(body) + 1), draw.choice(shared))
        if number % 20 == 0:
            body += [body[0], draw.choice(shared)]
        lines = ["Home | News | About us", *("\n\n".join(body)).split("\n"), "All rights reserved."]
        if number % 2:
            lines.insert(1, "subscribe to our newsletter")
        texts.append("\n".join(lines) + draw.choice(["", "\n"]))
    return [*texts, "HOME: news, about us\nAll rights reserved", shared[0], shared[0] + "\n\n" + shared[1]]


TEXTS = site()


def plain_repeats(texts: list[str], lines: int | None, paragraphs: int | None, words: int = 2) -> list[str]:
    """Lines in so many distinct texts are removed, of paragraphs of so many words all but the first."""
    placement = Placement.of(0, 0.1)
    key = {text: placement.sort_key(content_hash("docs", text)) for text in texts}
    counts = Counter(
        line for text in key for line in {tuple(plain_words(unit)) for unit in plain_units(text, False)}
    )
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    for text in key:
        at = 0
        for unit in plain_units(text, True):
            said = tuple(plain_words(unit))
            first[said] = min(first.get(said, (2**64, 0)), (key[text], at))
            at += len(unit)
    left = []
    for text in texts:
        at, whole = 0, ""
        for paragraph in plain_units(text, True):
            said = tuple(plain_words(paragraph))
            if not (paragraphs and len(said) >= paragraphs and first[said] != (key[text], at)):
                for line in plain_units(paragraph, False):
                    of_line = tuple(plain_words(line))
                    if not (lines and len(of_line) >= words and counts[of_line] >= lines):
                        whole += line
            at += len(paragraph)
        if whole != text:
            whole = whole.strip("\n")
        if whole.strip():
            left.append(whole)
    return sorted(set(left))


def repeats(**changes: Any) -> dict[str, Any]:
    return {**SMALL, "repeats": changes}


@pytest.mark.parametrize(
    ("changes", "lines", "paragraphs"),
    [
        ({"lines": True}, 10, None),
        ({"lines": True, "min_documents": 60}, 60, None),
        ({"lines": True, "min_fraction": 0.9}, 84, None),  # of 93 documents
        ({"lines": True, "min_documents": 2, "line_words": 1}, 2, None),
        ({"paragraphs": True}, None, 8),
        ({"paragraphs": True, "paragraph_words": 1, "lines": True, "ranges": 5}, 10, 1),
    ],
)
def test_beside_plain_python(
    tmp_path: Path, changes: dict[str, Any], lines: int | None, paragraphs: int | None
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    prepare(settings_for(path, **repeats(**changes), split_bytes=10_000), tmp_path / "out")
    expected = plain_repeats(TEXTS, lines, paragraphs, changes.get("line_words", 2))
    assert documents(tmp_path / "out") == expected
    assert expected != sorted(set(TEXTS))


BOTH = {"lines": True, "paragraphs": True}


def test_equal_over_cuts_orders_ranges_and_copies(tmp_path: Path) -> None:
    """A document that stands there forty times makes none of its lines common."""
    own = "A line of its own\n" + random_text(random.Random(3), 50)
    texts = [*TEXTS, *TEXTS[:7], *[own] * 40]
    expected = None
    for number, (splits, ranges) in enumerate(((1, 1), (4, 3), (16, 16))):
        shuffled = random.Random(number).sample(texts, len(texts))
        path = write_jsonl(tmp_path / f"in{number}.jsonl", shuffled)
        size = path.stat().st_size // splits + 1
        settings = settings_for(path, **repeats(**BOTH, ranges=ranges), split_bytes=size)
        prepare(settings, tmp_path / f"out{number}")
        expected = expected or fingerprint(tmp_path / f"out{number}")
        assert fingerprint(tmp_path / f"out{number}") == expected
        assert own in documents(tmp_path / f"out{number}")


def test_ledger_and_sources_apart(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    settings = settings_for(path, **repeats(**BOTH))
    values = settings.model_dump()
    few = write_jsonl(
        tmp_path / "few.jsonl", ["Home | News | About us\n" + text for text in ("one here", "two there")]
    )
    values["sources"] += [{"name": "few", "path": str(few)}]
    manifest = prepare(type(settings).model_validate(values), tmp_path / "out")
    stages = {(stage["source"], stage["stage"]): stage for stage in manifest["stages"]}
    assert [stage for source, stage in stages if source == "docs"] == [
        "read", "clean", "repeats", "filter", "encode", "deduplicate",
    ]  # fmt: skip
    for stage in [*manifest["stages"], manifest["counts"]]:
        for unit, removed in (("documents", 0), ("bytes", stage["bytes"]["removed"])):
            part = stage[unit]
            assert part["in"] + part["added"] == part["out"] + sum(part["dropped"].values()) + removed
    done = stages["docs", "repeats"]
    assert done["documents"]["dropped"]["empty"] >= 1 and done["bytes"]["removed"] > 2000
    assert stages["few", "repeats"]["bytes"]["removed"] == 0  # its menu stands in two documents of it alone
    assert manifest["counts"]["bytes"]["out"] == sum(
        len(text.encode()) for text in documents(tmp_path / "out")
    )


def test_nothing_but_repeats(tmp_path: Path) -> None:
    from cluster.errors import UserError

    texts = ["Home | News | About us\n" * number for number in range(1, 21)]
    settings = settings_for(write_jsonl(tmp_path / "in.jsonl", texts), **repeats(lines=True))
    with pytest.raises(UserError, match=r"no document is left.*20 documents in the input"):
        prepare(settings, tmp_path / "out")


def test_spans_are_cut_out() -> None:
    text = "menu\nä é\n\nfoot\n"
    assert without(text, [(0, 5)]) == "ä é\n\nfoot"
    assert without(text, [(0, 5), (12, 17)]) == "ä é"
    assert without(text, [(5, 11), (5, 12)]) == "menu\nfoot"
    assert without(text, [(0, 17)]) == "" == without("a\n \n", [(0, 2)])


RUN = """
import sys
from pathlib import Path
from tests.data_jobs.conftest import prepare, settings_for
from tests.data_jobs.dedup.test_repeats import BOTH, repeats
prepare(settings_for(sys.argv[1], **repeats(**BOTH, ranges=2), split_bytes=10_000), Path(sys.argv[2]))
"""
FAULTS = [
    "prepare.before_units:job=1", "prepare.after_units:job=0", "prepare.before_repeat:job=1",
    "prepare.after_repeat:job=0", "prepare.before_rewrite:job=2", "prepare.after_rewrite:job=1",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path: Path, fault: str) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    env = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[3]), "MANTA_FAULT": fault}
    killed = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(tmp_path / "out")], env=env, check=False
    )
    assert killed.returncode == -9
    prepare(settings_for(path, **repeats(**BOTH, ranges=2), split_bytes=10_000), tmp_path / "out")
    prepare(settings_for(path, **repeats(**BOTH)), tmp_path / "whole")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("rows", [1, 40, 300])
def test_a_task_holds_so_many_rows_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """A line that stands nearly everywhere is of one range, however narrow ranges are."""
    texts = [*TEXTS, *TEXTS[:30]]
    settings = settings_for(
        write_jsonl(tmp_path / "in.jsonl", texts), **repeats(**BOTH, ranges=2), split_bytes=10_000
    )
    prepare(settings, tmp_path / "whole")
    assert documents(tmp_path / "whole") == plain_repeats(texts, 10, 8)
    monkeypatch.setattr(repeat_tasks, "MOST_ROWS", rows)
    prepare(settings, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_of_what_is_repeated_a_task_holds_what_is_in_its_run(tmp_path: Path) -> None:
    hashes = np.arange(1000, dtype=np.uint64) * np.uint64((1 << 64) // 1000)
    ranges = []
    for number in range(4):
        keys = Range.of(number, 4)
        ranges.append(str(tmp_path / f"{number}.npy"))
        inside = (hashes >= np.uint64(keys.low)) & (hashes <= np.uint64(keys.high - 1))
        np.save(ranges[-1], hashes[inside] if number != 2 else hashes[:0])
    own = np.array([7, hashes[3], hashes[3], hashes[600], hashes[999], 5], np.uint64)
    with KeyedWriter(tmp_path / "units", repeat_tasks.UNIT) as file:
        file.add(own, own, own)
    found = rewrite_task._known(ranges, str(tmp_path / "units"), np.dtype(np.uint64))
    assert found.tolist() == [hashes[3], hashes[999]]
