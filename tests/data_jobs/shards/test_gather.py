"""Sources of very many runs: merged in two levels, with few files open, to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_jobs import runs
from data_jobs.shards import gather_task
from data_jobs.shards.gather_task import groups_of
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {"shard_bytes": 3_000, "val_fraction": 0.2}


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_shards_of_two_levels_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dedup: str
) -> None:
    """Copies of a document with other metadata in several runs, too; whatever is merged at once."""
    texts = make_texts(60)
    texts = [*texts, *texts[::3], *texts[::5]]
    path = write_jsonl(tmp_path / "in.jsonl", texts, url=[f"u{n * 7 % 50}" for n in range(len(texts))])
    source = {"metadata": ["url"]}
    settings = settings_for(path, **SMALL, dedup=dedup, source=source, split_bytes=1_500)
    prepare(settings, tmp_path / "one")
    assert "gather" not in json.loads((tmp_path / "one/report.json").read_bytes())["costs"]
    for most, batch, part in ((3, 700, 2_000), (2, 1 << 20, 1 << 20)):
        monkeypatch.setattr(gather_task, "MOST_RUNS", most)
        monkeypatch.setattr(gather_task, "BATCH_BYTES", batch)
        monkeypatch.setattr(gather_task, "PART_BYTES", part)
        out = tmp_path / f"by {most}"
        prepare(settings, out)
        assert fingerprint(out) == fingerprint(tmp_path / "one")
        assert json.loads((out / "report.json").read_bytes())["costs"]["gather"]["tasks"] > 2


def test_groups() -> None:
    """Few runs are merged at once; both levels open about as many files."""
    most = gather_task.MOST_RUNS
    assert groups_of([]) == [] == groups_of(["a"] * most)
    for count in (most + 1, 1000, 10_000, most * most, 160_000):
        groups = groups_of([str(n) for n in range(count)])
        assert [run for group in groups for run in group] == [str(n) for n in range(count)]
        assert max(len(groups), *map(len, groups)) <= max(most, int(count**0.5) + 1)


LIMITED = """
import resource, sys
from pathlib import Path
from data_jobs.shards import gather_task
from tests.data_jobs.conftest import prepare, settings_for
soft, hard, gather_task.MOST_RUNS = map(int, sys.argv[3:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
prepare(settings_for(sys.argv[1], shard_bytes=3_000, val_fraction=0.2, split_bytes=350), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("soft", "hard", "most"), [(64, 64, 15), (64, 600, 256)])
def test_few_files_may_be_open(tmp_path: Path, soft: int, hard: int, most: int) -> None:
    """More runs than files: in groups, or with a higher limit where the machine allows one."""
    path = write_jsonl(tmp_path / "in.jsonl", make_texts(110))
    words = [sys.executable, "-c", LIMITED, path, tmp_path / "out", soft, hard, most]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    costs = json.loads((tmp_path / "out/report.json").read_bytes())["costs"]
    assert costs["encode"]["tasks"] >= 64
    prepare(settings_for(path, **SMALL), tmp_path / "plain")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "plain")


def test_a_range_of_a_run_is_found_by_its_index(tmp_path: Path) -> None:
    """Also where batches begin with one key, and with the last key before them."""
    keys = [(False, 3), (False, 5), (False, 5), (False, 5), (False, 9), (True, 2), (True, 5)]
    documents = [
        runs.Document(val, key, bytes([n]) * 16, b"{}", "{}", str(n)) for n, (val, key) in enumerate(keys)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "BATCH_BYTES", 1)
        runs.write_text_run(tmp_path / "run", documents)
    run = runs.RunFile(tmp_path / "run")
    assert run.starts == keys
    for val in (False, True):
        for low in range(11):
            for high in (*range(low + 1, 12), 1 << 64):
                found = [row for batch in run.between(val, low, high) for row in batch["text"].to_pylist()]
                wanted = [d.text for d in documents if d.val == val and low <= d.key < high]
                assert set(wanted) <= set(found) and len(found) <= len(wanted) + 1
