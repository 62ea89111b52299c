"""What a person wants to know of a corpus that was made: report.json, and the sample of what was dropped.

Times and the machine stand here, so a report is no part of the corpus.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.places import to_json, write_bytes
from data_jobs.cleaning.spelling import sum_corrections
from data_jobs.filters.histograms import add_histograms


def make_report(
    manifest: dict[str, Any],
    merged: Sequence[dict[str, Any]],
    pieces: Sequence[dict[str, Any]],
    spent: dict[str, Any],
    near_duplicates: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The funnel by stage and source, tokenizer figures, lengths, damaged files, times by stage."""
    written = [done for done in merged if done["file"]]
    return {
        "corpus_id": manifest["corpus_id"],
        **{unit: _sum(written, unit) for unit in ("documents", "tokens", "bytes")},
        "funnel": manifest["stages"],
        "sources": manifest["sources"],
        "tokenizer": {
            **manifest["tokenizer"],
            **_token_figures(written),
            "sources": {
                source["name"]: _token_figures([done for done in written if done["source"] == source["name"]])
                for source in manifest["sources"]
            },
        },
        "sentences": sum(done["sentences"] for done in written),
        "document_tokens_log2": add_counts([done["length_log2"] for done in written]),
        "damaged_files": sorted(
            {f"{piece['path']}: {piece['damage']}" for piece in pieces if piece["damage"]}
        ),
        **({} if near_duplicates is None else {"near_duplicates": near_duplicates}),
        **spent,
        "machine": {
            "host": platform.node(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
        },
    }


def write_rejected(folder: Path, entries: Sequence[dict[str, Any]], pieces: Sequence[dict[str, Any]]) -> None:
    """One file a source, a line an entry; lines of a file's later pieces get their number in the file."""
    before = _lines_before(pieces)
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    by_source: dict[str, list[bytes]] = {}
    for entry in entries:
        whole = {**entry, "line": entry["line"] + before.get((entry["file"], entry["start"]), 0)}
        del whole["start"]
        by_source.setdefault(entry["source"], []).append(to_json(whole))  # names may not be UTF-8
    for source, lines in by_source.items():
        write_bytes(folder / f"{source}.jsonl", b"".join(lines))


def _lines_before(pieces: Sequence[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """(file, start of the piece) to how many lines of the file stand before it."""
    before: dict[tuple[str, int], int] = {}
    counted: dict[tuple[int, str], int] = {}
    for piece in sorted(pieces, key=lambda piece: (piece["source"], piece["path"], piece["start"])):
        file = (piece["source"], piece["path"])
        before[piece["path"], piece["start"]] = counted.get(file, 0)
        counted[file] = counted.get(file, 0) + piece["lines"]
    return before


def _token_figures(written: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How well the tokenizer fits: eos is no part of the text, so it is left out of the tokens here.

    Shares of the tokens: bytes that spell what has no entry, and tokens that say only that it has none.
    """
    tokens = max(1, _sum(written, "tokens") - _sum(written, "documents"))
    return {
        "bytes_per_token": round(_sum(written, "bytes") / tokens, 4),
        "byte_token_share": round(_sum(written, "byte_tokens") / tokens, 6),
        "unknown_token_share": round(_sum(written, "unknown_tokens") / tokens, 6),
    }


def _sum(written: Sequence[dict[str, Any]], unit: str) -> int:
    return sum(done[unit] for done in written)


def add_counts(histograms: Sequence[Sequence[int]]) -> list[int]:
    """Sums by place of lists of counts of any lengths."""
    longest = max((len(histogram) for histogram in histograms), default=0)
    return [sum(h[i] for h in histograms if i < len(h)) for i in range(longest)]


def texts_of_report(cleaned: Sequence[dict[str, Any]], filtered: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was changed in texts, by kind, with a sample of corrected words; what those that stay are like."""
    changes: dict[str, dict[str, int]] = {}
    for receipt in cleaned:
        for kind, counts in receipt["changes"].items():
            into = changes.setdefault(kind, dict.fromkeys(counts, 0))
            for name, number in counts.items():
                into[name] += number
    return {
        "changes": dict(sorted(changes.items())),
        "corrections": sum_corrections([receipt["corrections"] for receipt in cleaned]),
        "histograms": add_histograms(receipt["histograms"] for receipt in filtered),
    }
