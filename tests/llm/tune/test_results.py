"""What a sweep came to: rows, the best, the table, the folder of the best."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import llm
from cluster import places
from llm.tune.folder import SweepFolder
from llm.tune.ledger import Trial
from llm.tune.results import as_text, best_row, row_of, rows_of, summary_of, table, write_best
from tests.llm.train.runs import train


def trial(number: int, status: str = "finished", **results: float | None) -> Trial:
    """`s10=1.5`: a validation loss at step 10."""
    found = {int(name[1:]): {"val_loss": value} for name, value in results.items()}
    made = Trial(f"t{number:05d}", number, {"pretrain.optimizer.lr": 0.1 * (number + 1)}, status)  # type: ignore[arg-type]
    made.results, made.last_step, made.seconds = found, max(found, default=-1), 12.0
    return made


def named(*steps: int) -> list[tuple[int, str]]:
    return [(step, f"step-{step}") for step in steps]


def test_a_trials_row_is_its_best_validation_that_has_a_checkpoint() -> None:
    one = trial(0, s0=9.0, s10=2.0, s20=1.0, s30=3.0)
    assert row_of(one, named(10, 20, 30), "val_loss", "min").step == 20
    assert row_of(one, named(10, 20, 30), "val_loss", "max").step == 30
    kept = row_of(one, named(10, 25, 30), "val_loss", "min")
    assert (kept.step, kept.checkpoint, kept.numbers) == (10, "step-10", {"val_loss": 2.0})
    none = row_of(one, named(25), "val_loss", "min")
    assert (none.step, none.checkpoint) == (30, None)
    assert row_of(trial(1), [], "val_loss", "min").step == 0


def test_the_best_is_the_best_of_the_table() -> None:
    rows = [
        row_of(trial(0, s10=2.0), named(10), "val_loss", "min"),
        row_of(trial(1, "stopped_early", s10=1.0), [], "val_loss", "min"),
        row_of(trial(2, s10=1.5), named(10), "val_loss", "min"),
        row_of(trial(3, s10=1.5), named(10), "val_loss", "min"),
        row_of(trial(4, "failed", s10=0.1), named(10), "val_loss", "min"),
        row_of(trial(5, "diverged", s10=None), named(10), "val_loss", "min"),
    ]
    best = best_row(rows, "val_loss", "min")
    assert best is not None and best.trial.name == "t00002", "of two alike the earlier one"
    other = best_row(rows, "val_loss", "max")
    assert other is not None and other.trial.name == "t00000"
    assert best_row(rows[1:2], "val_loss", "min") is None
    summary = summary_of(rows, "val_loss", "min", "sweep-1", 60.0)
    assert (summary["trials"], summary["stopped_early"], summary["completed"]) == (6, 1, 3)
    assert summary["diverged"] == 1
    assert summary["best"]["settings"] == best.trial.settings and summary["best"]["metrics"] == {
        "val_loss": 1.5
    }
    places.to_json(summary)


def test_the_table_is_csv_with_every_number() -> None:
    one, two = trial(0, s10=0.1 + 0.2), trial(1, "failed")
    one.start_seconds, one.parent, two.why = 4.25, "t00001", 'it said "no", twice\nand, again'
    rows = [row_of(one, named(10), "val_loss", "min"), row_of(two, [], "val_loss", "min")]
    found = list(csv.DictReader(io.StringIO(table(rows).decode())))
    assert [row["trial"] for row in found] == ["t00000", "t00001"]
    assert float(found[0]["val_loss"]) == 0.1 + 0.2 and found[1]["val_loss"] == ""
    assert float(found[1]["pretrain.optimizer.lr"]) == 0.2
    assert (found[0]["start_seconds"], found[0]["seconds"], found[0]["parent"]) == ("4.2", "12.0", "t00001")
    assert found[1]["why"] == 'it said "no", twice and, again'
    text = as_text(rows, "val_loss", "min")
    assert text.splitlines()[0].split() == ["trial", "status", "step", "val_loss", "lr", "seconds"]
    assert text.splitlines()[1].split()[:4] == ["t00000", "finished", "10", "0.3"]


def test_best_is_a_run_folder_with_one_checkpoint(corpus: str, tmp_path: Path, one_thread: None) -> None:
    """`llm.load` takes it, at the very step."""
    folder = SweepFolder(tmp_path / "sweep")
    run = folder.trial("t00000")
    train(0, 1, corpus, Path(str(run)), steps=15, validation={"every": 5, "max_samples": 2})
    _record(Path(str(run)), corpus)
    one = trial(0, s5=1.0, s10=0.5, s15=2.0)
    [row] = rows_of(folder, [one], "val_loss", "min")
    assert row.step == 10
    for _ in range(2):  # a second time replaces it
        write_best(folder, row)
        loaded = llm.load(folder.best)
        assert loaded.step == 10 and [c.name for c in (folder.best / "checkpoints").iterdir()] == [
            row.checkpoint
        ]
    assert json.loads((folder.best / "summary.json").read_bytes())["best_checkpoint"]["step"] == 10
    assert (folder.best / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def _record(run: Path, corpus: str) -> None:
    """What the command writes beside what the workers do."""
    from data_jobs import open_corpus
    from tests.llm.train.runs import MODEL, settings_of

    opened: Any = open_corpus(corpus, "read")
    opened.tokenizer.save(run / "tokenizer")
    record = {
        "format": "manta-run-1",
        "run_id": "run-1",
        "model": MODEL | {"dropout": 0.0},
        "pretrain": settings_of("plain", 1).model_dump(mode="json"),
        "corpus": {"tokenizer": opened.tokenizer.fingerprint, "vocab_size": opened.tokenizer.vocab_size},
    }
    (run / "settings.json").write_text(json.dumps(record))
