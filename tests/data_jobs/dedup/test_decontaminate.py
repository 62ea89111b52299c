"""Documents that hold evaluation texts: found, named, and left out before anything is chosen or trained."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import places
from cluster.errors import UserError
from data_jobs.dedup.evaluation_task import texts_of
from data_jobs.settings import fixed_settings
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl
from tests.data_jobs.dedup.dedup_reference import plain_words, random_text, with_edit
from tests.data_jobs.test_pipeline import documents
from tests.object_store import S3

SMALL: dict[str, Any] = {"shard_bytes": 8_000, "val_fraction": 0.1}


@pytest.fixture
def questions(tmp_path: Path) -> dict[str, Any]:
    """Two evaluation sets and sixty documents, of which some quote them."""
    draw = random.Random(0)
    asked = [random_text(draw, 20) for _ in range(6)]
    rows = [{"question": asked[0], "choices": [asked[1], "short"]}, {"n": 3, "deep": {"answer": asked[2]}}]
    first = tmp_path / "quiz.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = tmp_path / "essay.txt.gz"
    second.write_bytes(gzip.compress("\n".join(asked[3:5]).encode()))
    texts = [random_text(draw, 60) for _ in range(60)]
    quoted = {
        3: asked[0].upper().replace(" ", " -- "),
        8: " ".join(plain_words(asked[1])[2:15]),  # 13 words
        9: " ".join(plain_words(asked[1])[2:14]),  # 12 words
        20: asked[2] + asked[2],
        31: asked[3],
        40: asked[5],  # in no set
        41: asked[4],
    }
    for at, words in quoted.items():
        texts[at] += "\n" + words
    return {"files": [str(first), str(second)], "texts": texts, "asked": asked}


CONTAMINATED = [3, 8, 20, 31, 41]


def run(tmp_path: Path, questions: dict[str, Any], out: str = "out", size: int = 5000, **changes: Any) -> Any:
    path = write_jsonl(tmp_path / "in.jsonl", questions["texts"])
    wanted = {"files": questions["files"], **changes.pop("decontaminate", {})}
    settings = settings_for(path, **SMALL, **changes, decontaminate=wanted, split_bytes=size)
    return prepare(settings, tmp_path / out)


def test_documents_that_quote_are_dropped(tmp_path: Path, questions: dict[str, Any]) -> None:
    manifest = run(tmp_path, questions)
    texts = questions["texts"]
    assert documents(tmp_path / "out") == sorted(t for at, t in enumerate(texts) if at not in CONTAMINATED)
    assert manifest["counts"]["documents"]["dropped"] == {"contaminated": 5}
    gone = sum(len(texts[at].encode()) for at in CONTAMINATED)
    assert manifest["counts"]["bytes"]["dropped"] == {"contaminated": gone}
    rows = [json.loads(line) for line in (tmp_path / "out/rejected/docs.jsonl").read_text().splitlines()]
    by_line = {row["line"]: row for row in rows}
    assert sorted(by_line) == [at + 1 for at in CONTAMINATED]
    gram = " ".join(plain_words(questions["asked"][1])[2:15])
    assert by_line[9]["detail"] == f"n-grams of quiz.jsonl in it: 1, such as '{gram}'"
    words = plain_words(questions["asked"][3])
    said = f"n-grams of essay.txt.gz in it: {len(words) - 12}, such as '{' '.join(words[:13])}'"
    assert by_line[32]["detail"] == said
    assert by_line[32]["head"] == repr(texts[31][:80])[1:-1]


def test_equal_over_cuts(tmp_path: Path, questions: dict[str, Any]) -> None:
    for size in (3_000, 1_000_000):
        run(tmp_path, questions, f"out{size}", size)
    assert fingerprint(tmp_path / "out3000") == fingerprint(tmp_path / "out1000000")


@pytest.mark.parametrize(
    ("changes", "dropped"), [({"min_matches": 2}, [3, 20, 31, 41]), ({"ngram": 12}, [3, 8, 9, 20, 31, 41])]
)
def test_how_much_must_be_shared(
    tmp_path: Path, questions: dict[str, Any], changes: dict[str, int], dropped: list[int]
) -> None:
    run(tmp_path, questions, decontaminate=changes)
    texts = questions["texts"]
    assert documents(tmp_path / "out") == sorted(t for at, t in enumerate(texts) if at not in dropped)


def test_a_contaminated_document_stays_for_no_other(tmp_path: Path, questions: dict[str, Any]) -> None:
    """Whatever its rank: near duplicates are looked for among those that are left."""
    draw = random.Random(1)
    base = random_text(draw, 300)
    clean = [with_edit(draw, base) for _ in range(4)]
    questions["texts"] += [*clean, *(f"{text}\n{questions['asked'][0]}" for text in clean)]
    manifest = run(tmp_path, questions, dedup="minhash")
    assert manifest["counts"]["documents"]["dropped"] == {"contaminated": 9, "near_duplicate": 3}
    names = [stage["stage"] for stage in manifest["stages"]]
    assert names == ["read", "clean", "filter", "decontaminate", "near_duplicates", "encode", "deduplicate"]
    assert len(set(documents(tmp_path / "out")) & set(clean)) == 1


def test_the_digest_of_the_files_is_part_of_the_corpus(tmp_path: Path, questions: dict[str, Any]) -> None:
    def fixed(files: list[str]) -> dict[str, Any]:
        return fixed_settings(settings_for("in.jsonl", decontaminate={"files": files}))

    one = fixed(questions["files"])
    assert fixed(questions["files"][::-1]) == one
    assert not any(str(tmp_path) in str(value) for value in one.values())
    assert fixed(questions["files"][:1]) != one
    assert not any(name.startswith(("decontaminate", "minhash", "repeats")) for name in fixed([]))


def test_what_cannot_be_read(tmp_path: Path, questions: dict[str, Any]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": "b"}\n{\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2: invalid_json.*corpus\.decontaminate\.files"):
        list(texts_of(str(bad)))
    questions["files"].append(str(tmp_path / "nowhere.txt"))
    with pytest.raises(UserError, match=r"corpus\.decontaminate\.files: .*nowhere\.txt: cannot be read"):
        run(tmp_path, questions)


def test_evaluation_files_in_an_object_store(
    s3: S3, bucket: str, tmp_path: Path, questions: dict[str, Any]
) -> None:
    """With every second request failing: the corpus that the same files give from here."""
    run(tmp_path, questions, "here")
    far = []
    for file in map(Path, questions["files"]):
        far.append(f"{bucket}/evaluation/{file.name}")
        places.write_bytes(far[-1], file.read_bytes())
    with s3.failing(2):
        run(tmp_path, {**questions, "files": far}, "there")
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "here")
    said = [(tmp_path / name / "rejected/docs.jsonl").read_text() for name in ("here", "there")]
    assert said[0] == said[1]
    nowhere = f"{bucket}/evaluation/none.jsonl"
    with pytest.raises(UserError, match=f"corpus.decontaminate.files: {nowhere}: cannot be read"):
        run(tmp_path, {**questions, "files": [*far, nowhere]}, "third")


def test_nothing_is_left(tmp_path: Path, questions: dict[str, Any]) -> None:
    questions["texts"] = [f"{number} {questions['asked'][0]}" for number in range(5)]
    with pytest.raises(UserError, match=r"no document is left.*contaminated 5"):
        run(tmp_path, questions)


RUN = """
import json, sys
from pathlib import Path
from tests.data_jobs.dedup.test_decontaminate import run
run(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "fault",
    [
        "prepare.before_evaluation:job=0", "prepare.after_evaluation:job=0",
        "prepare.before_contamination:job=1", "prepare.after_contamination:job=2", "prepare.before_train",
    ],
)  # fmt: skip
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path: Path, questions: dict[str, Any], fault: str
) -> None:
    env = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[3]), "MANTA_FAULT": fault}
    words = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(questions)]
    assert subprocess.run(words, env=env, check=False).returncode == -9
    run(tmp_path, questions)
    run(tmp_path, questions, "whole")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")
