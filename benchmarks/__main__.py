"""Run benchmarks side by side with their peers: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.rows import Row, table, write_result
from cluster.errors import UserError, run_command
from cluster.recipe import ROOT

RESULTS = ROOT / "benchmarks" / "results"
# Each is benchmarks/NAME.py with a `run`, imported when it is run. In this order: the loader is compared with
# the training that `train` has measured.
BENCHMARKS = (
    "train", "loader", "models", "engine", "stack", "trainer", "learning", "memory", "tracking", "goodput",
    "parity", "validation", "data", "finetune",
)  # fmt: skip
PICTURES = ROOT / "docs" / "images"
DESCRIPTION = """Our numbers beside a peer's on this machine, which should be idle; hours on 2
cores. train: the whole stack beside a bare PyTorch loop. loader: the loader beside what training consumes,
and its memory. models: training, memory and generation beside transformers. engine: what saving, loading,
starting and coming back after a kill cost. stack: the whole stack and the plain engine around a larger model
beside a bare loop, and two workers beside one. trainer: one process beside transformers' Trainer. learning:
validation losses beside transformers' GPT-2, with a picture. memory: the plan of a worker's memory beside
real processes. tracking: training while W&B does not answer. goodput: what is left of the time under kills.
parity: how far losses of every ZeRO stage, precision and optimizer are from torch alone. validation: what it
costs the steps, on the trainer and on another worker. data: the data jobs beside datatrove, and as a corpus
grows. finetune: a sweep beside its trainings alone. GPUs have a command of their own: python -m
benchmarks.gpu --help."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of seconds on a tiny model; needs --out"
    )
    parser.add_argument("--out", type=Path, help="folder for NAME.json (default: benchmarks/results)")
    parser.add_argument(
        "--text",
        type=Path,
        help="learning, data: a folder of text, or a corpus (default: of the standard library)",
    )
    options = parser.parse_args(argv)
    names = _names(options.names)
    out = _out(options.out, options.quick)
    machine, versions = describe_machine(), describe_versions()
    if not options.quick and machine["load_average"][0] > machine["cores"] / 2:
        _say(f"warning: the load average is {machine['load_average'][0]}: the numbers will be disturbed")
    command = shlex.join(["python", "-m", "benchmarks", *argv])
    all_rows: list[Row] = []
    from benchmarks.ground import Ground  # late: --help needs no torch, and no Arrow

    with tempfile.TemporaryDirectory(prefix="manta-bench-") as folder:
        ground = Ground(Path(folder), options.quick, _say, text=_text(options.text))
        for name in names:
            rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run(ground)
            write_result(out / f"{name}.json", machine, versions, command, rows)
            all_rows += rows
            for picture, svg in ground.pictures.items():
                ((PICTURES if out == RESULTS else out) / picture).write_text(svg, encoding="utf-8")
    print(table(all_rows))
    return 0


def _names(given: list[str]) -> list[str]:
    unknown = [name for name in given if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"no benchmark {', '.join(map(repr, unknown))}; there are: {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if name in given or not given]


def _out(given: Path | None, quick: bool) -> Path:
    if quick and (given is None or given.resolve() == RESULTS):
        raise UserError(
            "--quick measures nothing worth keeping: give it an --out folder beside benchmarks/results"
        )
    out = given or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    return out


def _text(given: Path | None) -> Path | None:
    if given is not None and not given.exists():
        raise UserError(f"--text: {given} is not there")
    return None if given is None else given.resolve()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
