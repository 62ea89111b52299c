"""The command on real Ray Data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import lease, ray_runtime
from cluster.errors import UserError
from data_jobs.prepare import main, warnings_of
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl

ROOT = Path(__file__).parents[2]


def recipe_for(folder: Path, path: Path) -> Path:
    recipe = folder / "small.yaml"
    recipe.write_text(
        f"corpus:\n  sources: [{{name: docs, path: '{path}'}}]\n  tokenizer: {{vocab_size: 500}}\n"
        f"  shard_bytes: 8000\n  val_fraction: 0.1\n  split_bytes: 20000\n  out: '{folder}/out'\n"
    )
    return recipe


def command(*words: str | Path, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"MANTA_FAULT": fault} if fault else {})
    return subprocess.run(
        [sys.executable, "-m", "data_jobs.prepare", *map(str, words)],
        capture_output=True, text=True, env=env, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ray_killed_continued_and_done_again(tmp_path: Path, texts: list[str]) -> None:
    """On 1 and 2 CPUs, killed in between: the bytes of a run without Ray; then nothing is left to do."""
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    recipe = recipe_for(tmp_path, path)
    prepare(settings_for(path, shard_bytes=8_000, val_fraction=0.1), tmp_path / "plain")
    killed = command(recipe, "--cluster.num_cpus", "1", fault="prepare.after_train")
    assert killed.returncode == -9, killed.stderr
    done = command(recipe, "--cluster.num_cpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["counts"]["documents"] == {"in": 300, "added": 0, "out": 300, "dropped": {}}
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "plain")
    again = command(recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    other = command(recipe, "--corpus.seed", "1")
    assert other.returncode == 2 and "corpus.seed was 0, now 1" in other.stderr


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ray_says_what_a_task_says(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    path.write_bytes(path.read_bytes() + b"{\n")
    failed = command(recipe_for(tmp_path, path), "--corpus.on_bad", "fail")
    assert failed.returncode == 2
    assert "invalid_json" in failed.stderr and "Traceback" not in failed.stderr


def test_local_engine_needs_no_ray(tmp_path: Path, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    prepare(settings_for(path, shard_bytes=8_000, val_fraction=0.1), tmp_path / "plain")
    code = (
        "import sys; from data_jobs.prepare import main; "
        "assert main([sys.argv[1], '--engine', 'local', '--json']) == 0; "
        "sys.exit(any(name.split('.')[0] == 'ray' for name in sys.modules))"
    )
    words = [sys.executable, "-c", code, str(recipe_for(tmp_path, path))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["documents"]["out"] == 300
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "plain")


def test_fresh_removes_nothing_before_all_else_is_right(tmp_path: Path, texts: list[str]) -> None:
    recipe = recipe_for(tmp_path, write_jsonl(tmp_path / "in.jsonl", texts))
    words = [str(recipe), "--engine", "local", "--json", "--fresh", "--corpus.seed", "1"]
    assert main(words[:4]) == 0
    before = fingerprint(tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere\.txt: cannot be read"):
        main([*words, "--corpus.decontaminate.files", f"[{tmp_path}/nowhere.txt]"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a corpus"):
        main(words)
    assert fingerprint(tmp_path / "out") == before
    (tmp_path / "out" / "notes.txt").unlink()
    assert main(words) == 0
    assert fingerprint(tmp_path / "out") != before


def test_fresh_removes_nothing_where_ray_cannot_be_used(
    ray_here: None, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tmp_path, write_jsonl(tmp_path / "in.jsonl", texts))
    assert main([str(recipe), "--engine", "local", "--json"]) == 0
    before = fingerprint(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_runtime, "is_many_nodes", lambda: True)
    with pytest.raises(UserError, match="corpus.out: 'out' is relative"):
        main([str(recipe), "--corpus.out", "out", "--fresh"])
    assert fingerprint(tmp_path / "out") == before


def test_a_second_start_is_refused_and_one_that_finds_all_done_writes_nothing(
    tmp_path: Path, texts: list[str]
) -> None:
    recipe = recipe_for(tmp_path, write_jsonl(tmp_path / "in.jsonl", texts))
    words = [str(recipe), "--engine", "local", "--json"]
    with lease.hold(tmp_path / "out"), pytest.raises(UserError, match="is writing this folder"):
        main(words)
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "out/.work").mkdir()  # its last moment was cut short
    assert main(words) == 0 and not (tmp_path / "out/.work").exists()
    for word in ("--fresh", "--corpus.seed"):
        with (
            lease.hold(tmp_path / "out"),
            pytest.raises(UserError, match="is writing|a corpus is there already"),
        ):
            main([*words, word, *["1"] * (word != "--fresh")])


def test_an_evaluation_file_that_cannot_be_read_is_told_before_anything_is_done(
    tmp_path: Path, texts: list[str]
) -> None:
    recipe = recipe_for(tmp_path, write_jsonl(tmp_path / "in.jsonl", texts))
    (tmp_path / "quiz.jsonl").write_text('{"asked": "a"}\n{\n')
    words = [str(recipe), "--engine", "local", "--json"]
    asked = ["--corpus.decontaminate.files", f"[{tmp_path}/quiz.jsonl]"]
    with pytest.raises(UserError, match=r"quiz\.jsonl:2: invalid_json.*corpus\.decontaminate\.files"):
        main([*words, *asked])
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    before = fingerprint(tmp_path / "out")
    with pytest.raises(UserError, match=r"quiz\.jsonl:2"):
        main([*words, *asked, "--fresh"])
    assert fingerprint(tmp_path / "out") == before


def test_no_sources_and_missing_file(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, tmp_path / "nowhere.jsonl")
    said = command(recipe)
    assert said.returncode == 2 and "nowhere.jsonl: no such file" in said.stderr
    assert f"{recipe}:2: corpus.sources.0.path: " in said.stderr
    said = command(recipe, "--corpus.sources", "[]")
    assert said.returncode == 2 and "corpus.sources is empty" in said.stderr


@pytest.mark.parametrize(
    ("changes", "found", "entries", "words"),
    [
        ({}, ["train", "val"], 500, []),
        ({}, ["train", "val"], 320, ["corpus.tokenizer.vocab_size is 500, the tokenizer has 320 entries"]),
        ({}, ["train"], 500, ["no document fell into val: raise corpus.val_fraction (0.05)"]),
        ({"val_fraction": 0.0}, ["train"], 500, []),  # as it was asked for
        (
            {"val_fraction": 0.9},
            ["val"],
            500,
            ["no document fell into train: lower corpus.val_fraction (0.9)"],
        ),
        (
            {"tokenizer": {"path": "there"}},
            ["train", "val"],
            320,
            ["no effect: corpus.tokenizer.vocab_size: "],
        ),
        ({"dedup": "minhash"}, ["train", "val"], 500, []),
        (
            {"dedup": "minhash", "minhash": {"threshold": 0.6}},
            ["train", "val"],
            500,
            ["corpus.minhash: of pairs at the threshold 0.6 only 21 % are found"],
        ),
        (
            {"minhash": {"threshold": 0.8}, "repeats": {"lines": False, "line_words": 3}},
            ["train", "val"],
            500,
            ["no effect: corpus.repeats.line_words: ", "no effect: corpus.minhash.threshold: "],
        ),
    ],
)
def test_what_a_small_corpus_could_not_give(
    changes: dict[str, Any], found: list[str], entries: int, words: list[str]
) -> None:
    manifest = {"sources": [{"splits": dict.fromkeys(found)}], "tokenizer": {"vocab_size": entries}}
    warnings = warnings_of(settings_for("in.jsonl", **changes), manifest)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "--corpus.tokenizer.vocab_size" in capsys.readouterr().out
