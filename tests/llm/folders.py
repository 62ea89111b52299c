"""Run and corpus folders for tests, as the trainer and prepare leave them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from data_jobs.pipeline import Build
from data_jobs.reading.inputs import list_files
from data_jobs.settings import CorpusSettings
from data_jobs.work import run_here
from llm.train.run_folder import FORMAT

SETTINGS = {"format": FORMAT, "run_id": "run-1", "pretrain": {"steps": 120}}
HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \u2028 ]]> \"'"


def metric_lines(steps: int = 120) -> list[dict[str, Any]]:
    """A run that stopped after step 70 and was continued from its checkpoint at step 60."""
    chance = random.Random(0)

    def line(step: int, attempt: str, time: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": step,
            "time": time,
            "attempt": attempt,
        }
        if step:
            row |= {
                "tokens": step * 512, "samples": step * 2,
                "loss": 2 + 6 * math.exp(-step / 30) + chance.gauss(0, 0.1), "lr": 1e-3,
                "grad_norm": chance.random(),
                "tokens_per_second": 1000 + chance.random(), "step_seconds": 0.5,
                "data_wait_seconds": 0.01,
                "checkpoint_stall_seconds": 0.1 * ((step > 20) + (step > 100)),
                "mfu": 0.4, "goodput": step / (step + 30), "restarts": int(attempt == "b"),
                "memory_bytes": (3 << 30) + step,
                "sample_digest": f"{step:032x}",
            }  # fmt: skip
        if step % 40 == 0:
            row |= {"val_loss": 2.1 + 6 * math.exp(-step / 30), "bits_per_byte": 1 + math.exp(-step / 30)}
        return row

    first = [line(step, "a", 1e9 + step / 2) for step in range(71)]
    return first + [line(step, "b", 1e9 + 90 + step / 2) for step in range(61, steps + 1)]


def write_run(run: Path, lines: list[dict[str, Any]] | None = None, **files: Any) -> Path:
    """A run folder as the trainer leaves it."""
    run.mkdir(parents=True)
    lines = metric_lines() if lines is None else lines
    texts = {
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "samples.jsonl": "".join(
            json.dumps({"step": step, "prompt": "def f(", "text": f"def f(x{step}"}) + "\n"
            for step in (0, 60, 120)
        ),
        "settings.json": json.dumps({**SETTINGS, "model": {"layers": 2}, "environment": {"torch": "2"}}),
        "summary.json": json.dumps({"parameters": 12345, "workers": 2, "zero_stage": 2}),
    }
    for name, text in {**texts, **files}.items():
        (run / name).write_text(text, encoding="utf-8")
    return run


CORPUS_TEXTS = [f"document {i}: " + " ".join(f"word{i * k % 97}" for k in range(40)) for i in range(200)]
CORPUS_TEXTS += [*CORPUS_TEXTS[:7], ""]  # 7 duplicates, and one that is empty


def make_corpus(folder: Path) -> Path:
    """A small corpus of CORPUS_TEXTS and one broken record, made by the real pipeline without Ray."""
    lines = [json.dumps({"text": text}) for text in CORPUS_TEXTS]
    (folder / "texts.jsonl").write_text("\n".join([*lines[:50], '{"text": ', *lines[50:]]) + "\n")
    settings = CorpusSettings.model_validate(
        {
            "sources": [{"name": "words", "path": str(folder / "texts.jsonl")}],
            "tokenizer": {"vocab_size": 400},
            "val_fraction": 0.1,
        }
    )
    out = folder / "corpus"
    Build(settings, out, list_files(settings.sources), run_here, lambda *_: None).run()
    return out


def trial_lines(steps: int, rate: float, every: int = 20) -> list[dict[str, Any]]:
    """Logged lines of a fine-tuning whose F1 comes to `rate`."""
    return [
        {
            "step": step, "time": 1e9 + step, "attempt": "a",
            **({"tokens": step * 512, "loss": 0.7 - rate * step / 200} if step else {}),
            **({"val_loss": 0.7 - rate * step / 250, "val_f1_macro": rate * step / steps}
               if step % every == 0 else {}),
        }
        for step in range(steps + 1)
    ]  # fmt: skip


SPACE = {
    "finetune.optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
    "finetune.task.loss": ["cross_entropy", "hinge"],
}


def write_sweep(sweep: Path, trials: int = 12, **files: str) -> Path:
    """A sweep's folder as llm.sweep leaves it: half of its trials stopped early, one failed before it had
    numbers. F1 rises with the learning rate; the loss settles nothing. The last but one is the best."""
    chance = random.Random(0)
    rows = []
    for number in range(trials - 1):
        f1 = 0.5 + 0.4 * number / trials
        step = 60 if number % 2 else 120
        trial = f"t{number:02d}"
        write_run(
            sweep / "trials" / trial,
            trial_lines(step, f1),
            **{"settings.json": json.dumps({"format": FORMAT, "run_id": trial, "finetune": FINETUNE})},
        )
        rows.append(
            [trial, "stopped_early" if number % 2 else "finished", step, 0.7 - f1 * step / 250, f1,
             1e-4 * 100 ** (number / trials), chance.choice(["cross_entropy", "hinge"]), 30.5, 4.25, "",
             f"step-{step:09d}-ab", ""]
        )  # fmt: skip
    rows.append([f"t{trials - 1:02d}", "failed", 0, "", "", 0.009, "hinge", 2.0, "", "", "", "no memory"])
    best = rows[-2]
    names = [
        "trial", "status", "step", "val_loss", "val_f1_macro", *SPACE, "seconds", "start_seconds", "parent",
        "checkpoint", "why",
    ]  # fmt: skip
    found = dict(zip(names, best, strict=True))
    summary = {
        "finished": True, "trials": trials, "stopped_early": sum(row[1] == "stopped_early" for row in rows),
        "metric": "val_f1_macro", "mode": "max",
        "best": {
            "trial": found["trial"], "step": found["step"], "settings": {name: found[name] for name in SPACE},
            "metrics": {name: found[name] for name in ("val_loss", "val_f1_macro")},
        },
    }  # fmt: skip
    record = {
        "format": "manta-sweep-1", "section": "finetune", "space": SPACE, "search": "random",
        "scheduler": "asha", "metric": "val_f1_macro", "mode": "max", "recipe": {"finetune": FINETUNE},
    }  # fmt: skip
    texts = {
        "sweep.json": json.dumps(record),
        "trials.csv": "".join(",".join(map(str, row)) + "\n" for row in [names, *rows]),
        "summary.json": json.dumps(summary),
    }
    for name, text in {**texts, **files}.items():
        (sweep / name).write_text(text, encoding="utf-8")
    return sweep


FINETUNE = {
    "steps": 120,
    "best_by": "val_f1_macro",
    "task": {"kind": "classification", "loss": "cross_entropy"},
}
