"""Build DeepSpeed's operators at set-up, so that no training waits for a compiler."""

from __future__ import annotations

import argparse
import time

from cluster.errors import run_command


def main(argv: list[str]) -> int:
    """`python -m llm.train.build_ops`: a second call finds them built."""
    argparse.ArgumentParser(prog="python -m llm.train.build_ops", description=__doc__).parse_args(argv)
    print("building DeepSpeed's shared-memory operator (1 to 2 minutes the first time) ...", flush=True)
    start = time.perf_counter()
    from llm.train.deepspeed_zero import build_ops

    built = build_ops()
    print(f"{'built or found' if built else 'nothing to build here'} in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    run_command(main)
