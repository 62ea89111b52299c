"""A folder with a recipe, a corpus and runs, and the commands over them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

RECIPE: dict[str, Any] = {
    "corpus": {
        "sources": [{"name": "stdlib", "path": "{stdlib}/json", "format": "code"}],
        "tokenizer": {"vocab_size": 512},
        "val_fraction": 0.3,
    },
    "model": {"layers": 2, "width": 32, "heads": 2, "context": 64},
    "pretrain": {
        "workers": 2,
        "steps": 20,
        "batch": 4,
        "length": 64,
        "micro_batch": 2,
        "optimizer": {"lr": 3e-3},
        "schedule": {"warmup_steps": 4},
        "validation": {"every": 10, "max_samples": 8},
        "samples": {"every": 10, "prompts": ["def "], "tokens": 8},
        "checkpoint": {"every": 5, "keep": 2},
    },
}


class Home:
    """A folder with a recipe, a corpus, and runs."""

    def __init__(self, path: Path, recipe: dict[str, Any] | None = None) -> None:
        self.path = path
        self.recipe = path / "tiny.yaml"
        self.recipe.write_text(yaml.safe_dump(RECIPE if recipe is None else recipe))
        self.corpus = path / "corpus"
        self.patience = 240.0
        """Seconds that a command may take."""

    def start(self, module: str, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *args],
            env=os.environ | env,
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, module: str, *args: str, status: int = 0, **env: str) -> str:
        process = self.start(module, *args, **env)
        try:
            out, _ = process.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not done in {self.patience:.0f} s:\n{process.communicate()[0]}") from None
        assert process.returncode == status, out
        return out

    def prepare(self) -> None:
        """The corpus; without Ray, whose bytes are the same."""
        self.call(
            "data_jobs.prepare", str(self.recipe), "--corpus.out", str(self.corpus), "--engine", "local"
        )

    def pretrain_args(self, run: str, *args: str) -> list[str]:
        places = ["--pretrain.corpus", str(self.corpus), "--pretrain.out", str(self.path / run)]
        return [str(self.recipe), *places, *args]

    def pretrain(self, run: str, *args: str, status: int = 0, **env: str) -> str:
        return self.call("llm.pretrain", *self.pretrain_args(run, *args), status=status, **env)


HERE = ("--pretrain.launch", "here", "--pretrain.workers", "1", "--pretrain.wandb.mode", "disabled")
