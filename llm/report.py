"""The page of a run or a corpus: `python -m llm.report RUN_OR_CORPUS`."""

from __future__ import annotations

import argparse

from cluster import places
from cluster.errors import UserError, run_command
from cluster.places import Place, write_bytes, write_json
from llm.pages.corpus import corpus_body, corpus_numbers
from llm.pages.page import finite, page
from llm.pages.training import run_body, run_numbers


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llm.report",
        description="Draw a run folder or a corpus folder as one HTML page, report.html, that needs no "
        "network. For a run, report.json beside it holds the same numbers.",
    )
    parser.add_argument(
        "folder",
        metavar="RUN_OR_CORPUS",
        type=places.at,
        help="a run folder or a corpus folder; a path or s3://bucket/name",
    )
    print(write_report(parser.parse_args(argv).folder))
    return 0


def write_report(folder: Place) -> Place:
    """Write the page of a folder, and for a run its numbers too; returns the page's path."""
    kind, folder = find_kind(folder)
    path = folder / "report.html"
    if kind == "run":
        numbers = finite(run_numbers(folder))
        body, charts = run_body(numbers)
        write_json(folder / "report.json", numbers)
    else:  # a corpus has its report.json from prepare
        numbers = corpus_numbers(folder)
        body, charts = corpus_body(numbers)
    write_bytes(path, page(f"{kind.capitalize()} {numbers['name']}", str(folder), body, charts).encode())
    return path


def find_kind(folder: Place) -> tuple[str, Place]:
    """'run' or 'corpus', and the folder itself: that of the run where one of its checkpoints is given."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run folder or a corpus folder")
    if (folder / "manifest.json").is_file():
        return "corpus", folder
    for place in (folder, *(folder.resolve().parents[:2] if folder.name.startswith("step-") else ())):
        if (place / "settings.json").is_file():
            return "run", place
    inside = [
        str(file.parent) for name in ("manifest.json", "settings.json") for file in folder.glob(f"*/{name}")
    ]
    hint = f"; did you mean {' or '.join(sorted(inside))}?" if inside else ""
    raise UserError(f"{folder}: neither a run (no settings.json) nor a corpus (no manifest.json){hint}")


if __name__ == "__main__":
    run_command(main)
