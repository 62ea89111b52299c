"""Compile the kernels over text at set-up, so that no first job waits for a compiler."""

from __future__ import annotations

import argparse
import importlib
import time

from cluster.errors import run_command

KERNELS = (
    "data_jobs.cleaning.signs",
    "data_jobs.dedup.graph_kernels",
    "data_jobs.dedup.text_kernels",
    "data_jobs.filters.hash_kernels",
    "data_jobs.filters.line_kernels",
    "data_jobs.filters.list_kernels",
    "data_jobs.filters.measure_kernels",
    "data_jobs.filters.ngram_kernels",
    "data_jobs.tokens.sentence_kernel",
    "data_jobs.tokens.word_kernels",
)
"""The files with kernels that are compiled when they are imported; each caches its own beside itself."""


def main(argv: list[str]) -> int:
    """`python -m data_jobs.build_kernels`: a second call finds them compiled."""
    argparse.ArgumentParser(prog="python -m data_jobs.build_kernels", description=__doc__).parse_args(argv)
    start = time.perf_counter()
    for name in KERNELS:
        importlib.import_module(name)
    print(f"kernels over text: compiled or found in {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
