"""The demo: raw text to trained and tuned models on this machine, by the commands that anyone would type."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster.errors import run_command
from cluster.recipe import load_recipe
from llm.demo_baselines import compress
from llm.demo_models import SWEEP_RECIPE, evaluate, fill, generate, judge, tune_from_nothing
from llm.demo_pairs import PARTS, make_pairs
from llm.demo_results import Folders, draw, print_next, print_results
from llm.demo_stages import CommandFailed, Stage, call, run_stage

HOME = Path("runs/demo")


def main(argv: list[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m llm.demo",
        description="Prepare Python's own standard library, pretrain a small GPT and a small BERT on it, "
        "fine-tune the BERT to tell whether a docstring belongs to a function (a sweep over its settings), "
        f"evaluate all (the GPT beside gzip and xz), and draw {HOME}/report.html. A second run finds the "
        "work done.",
    ).parse_args(argv)
    at = demo_folders()
    stages = demo_stages(at)
    for number, stage in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {stage.name} (budget {stage.budget:.0f} s)", flush=True)
        try:
            run_stage(stage, at.result("seconds"))
        except CommandFailed as failure:
            print(
                f"demo: '{stage.name}' ended with status {failure.status}; make demo continues",
                file=sys.stderr,
            )
            return failure.status
    print_results(draw(at, {stage.name: stage.budget for stage in stages}), HOME)
    print_next(at)
    return 0


def demo_folders() -> Folders:
    """Where its recipes say that the parts lie."""
    recipe = load_recipe("demo")
    return Folders(
        home=HOME,
        corpus=Path(recipe.out("corpus")),
        gpt=Path(recipe.out("pretrain")),
        bert=Path(load_recipe("demo-bert").out("pretrain")),
        sweep=Path(load_recipe(SWEEP_RECIPE).out("sweep")),
        from_nothing=HOME / "from-nothing",
    )


def demo_stages(at: Folders) -> list[Stage]:
    """The journey from text to numbers. The budgets add up to less than fifteen minutes."""
    results = {name: at.result(name) for name in ("evaluation", "guesses", "texts", "fillings", "baselines")}

    def measure() -> None:
        evaluate(at.gpt, results["evaluation"])
        evaluate(at.bert, results["guesses"])
        judge(at.best, at.told)
        judge(at.from_nothing, at.told_from_nothing)

    def write() -> None:
        generate(at.gpt, results["texts"])
        fill(at.bert, results["fillings"])

    judged = (results["evaluation"], results["guesses"], at.told, at.told_from_nothing)
    pairs = tuple(at.pairs / f"{name}.jsonl" for name in PARTS)
    return [
        Stage("prepare", 50, (at.corpus / "manifest.json",), lambda: call("data_jobs.prepare", "demo")),
        Stage("pretrain", 265, trained(at.gpt), lambda: call("llm.pretrain", "demo")),
        Stage("pretrain a bert", 165, trained(at.bert), lambda: call("llm.pretrain", "demo-bert")),
        Stage("pairs", 15, (*pairs, at.pairs / "pairs.json"), lambda: make_pairs(at.corpus, at.pairs)),
        Stage("sweep", 155, (at.sweep / "summary.json",), lambda: call("llm.sweep", SWEEP_RECIPE)),
        Stage(
            "from nothing", 60, trained(at.from_nothing), lambda: tune_from_nothing(at.sweep, at.from_nothing)
        ),
        Stage("evaluate", 90, judged, measure),
        Stage("generate", 50, (results["texts"], results["fillings"]), write),
        Stage("compress", 10, (results["baselines"],), lambda: compress(at.corpus, results["baselines"])),
    ]


def trained(run: Path) -> tuple[Path, Path]:
    """The marks of a training."""
    return run / "summary.json", run / "metrics.jsonl"


if __name__ == "__main__":
    run_command(main)
