"""`make faults`: runs the long proofs and keeps what they showed in benchmarks/results/faults.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import describe_machine, describe_versions
from cluster import places
from cluster.errors import UserError, run_command
from cluster.recipe import ROOT
from tests.faults import data_cases, training_cases

CASES = {case.__name__: case for case in (*data_cases.CASES, *training_cases.CASES)}
RESULT = ROOT / "benchmarks" / "results" / "faults.json"


def main(argv: list[str]) -> int:
    """Exit 1 where a case did not hold in all its runs. A run of some cases keeps the rows of the others."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="what the kills and flips are drawn from")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    options = parser.parse_args(argv)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        raise UserError(f"no case {', '.join(unknown)}; there are: {', '.join(CASES)}")
    rows = {row["case"]: row for row in _kept(options.out)}
    failed = False
    for name in options.cases or CASES:
        print(f"{name}: {(CASES[name].__doc__ or '').splitlines()[0]}", flush=True)
        started = time.monotonic()
        outcomes = list(_outcomes(name, options.seed))
        wrong = [outcome for outcome in outcomes if outcome]
        rows[name] = {
            "case": name,
            "seed": options.seed,
            "runs": len(outcomes),
            "held": len(outcomes) - len(wrong),
            "worst": wrong[0] if wrong else "",
            "seconds": round(time.monotonic() - started),
            "commit": describe_versions()["commit"],
        }
        failed |= bool(wrong) or not outcomes
        print(
            f"  {rows[name]['held']} of {rows[name]['runs']} held, {rows[name]['seconds']} s",
            *wrong[:3],
            sep="\n  ",
        )
        result = {"machine": describe_machine(), "versions": describe_versions(), "rows": list(rows.values())}
        places.write_bytes(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return 1 if failed else 0


def _outcomes(name: str, seed: int) -> Iterator[str]:
    """A case's outcomes; one that ends in an error has failed, and the next cases are run."""
    try:
        yield from CASES[name](seed)
    except Exception as error:
        yield f"{type(error).__name__}: {str(error)[-500:]}"


def _kept(path: Path) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = json.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, KeyError):
        return []
    return rows


if __name__ == "__main__":
    sys.exit(run_command(main))
