"""The page of a run, a sweep or a corpus: `python -m llm.report FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from cluster import places
from cluster.errors import UserError, run_command
from cluster.places import Place, write_bytes, write_json
from llm.pages.charts import Chart
from llm.pages.corpus import corpus_body, corpus_numbers
from llm.pages.page import finite, page
from llm.pages.sweep import sweep_body
from llm.pages.sweep_numbers import sweep_numbers
from llm.pages.training import run_body, run_numbers

MARKS = {"run": "settings.json", "sweep": "sweep.json", "corpus": "manifest.json"}
"""The file that tells what a folder is."""
Count = Callable[[Place], dict[str, Any]]
Draw = Callable[[Mapping[str, Any]], tuple[str, list[Chart]]]
OF_A_KIND: dict[str, tuple[Count, Draw]] = {
    "run": (run_numbers, run_body),
    "sweep": (sweep_numbers, sweep_body),
    "corpus": (corpus_numbers, corpus_body),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llm.report",
        description="Draw a run, sweep or corpus folder as one HTML page, report.html, that needs no "
        "network. For a run or a sweep, report.json beside it holds the same numbers.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=places.at,
        help="a run, sweep or corpus folder; a path or s3://bucket/name",
    )
    print(write_report(parser.parse_args(argv).folder))
    return 0


def write_report(folder: Place) -> Place:
    """Write the page of a folder, and for a run or a sweep its numbers too; returns the page's path."""
    kind, folder = find_kind(folder)
    path = folder / "report.html"
    count, draw = OF_A_KIND[kind]
    numbers = finite(count(folder))
    body, charts = draw(numbers)
    if kind != "corpus":  # which has its report.json from prepare
        write_json(folder / "report.json", numbers)
    write_bytes(path, page(f"{kind.capitalize()} {numbers['name']}", str(folder), body, charts).encode())
    return path


def find_kind(folder: Place) -> tuple[str, Place]:
    """'run', 'sweep' or 'corpus', and the folder itself: that of the run where a checkpoint is given."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run, sweep or corpus folder")
    for kind in ("corpus", "sweep"):
        if (folder / MARKS[kind]).is_file():
            return kind, folder
    for place in (folder, *(folder.resolve().parents[:2] if folder.name.startswith("step-") else ())):
        if (place / MARKS["run"]).is_file():
            return "run", place
    inside = [str(file.parent) for name in MARKS.values() for file in folder.glob(f"*/{name}")]
    hint = f"; did you mean {' or '.join(sorted(inside))}?" if inside else ""
    wanted = ", ".join(f"no {name}: no {kind}" for kind, name in MARKS.items())
    raise UserError(f"{folder}: neither a run nor a sweep nor a corpus ({wanted}){hint}")


if __name__ == "__main__":
    run_command(main)
