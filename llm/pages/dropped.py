"""Samples of what a corpus left out, by source and reason: the section of its page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.places import Place
from llm.pages import blocks

SHOWN = 5  # of each source and reason
Samples = dict[str, dict[str, list[dict[str, Any]]]]


def dropped_samples(corpus: Place) -> Samples:
    """Source to reason to the first entries of its file in rejected/, which are a fair sample."""
    found: Samples = {}
    folder = corpus / "rejected"
    if not folder.is_dir():
        return found
    for name in sorted(path.name for path in folder.iterdir()):
        for text in (folder / name).read_bytes().splitlines():
            entry = json.loads(text)
            entries = found.setdefault(entry["source"], {}).setdefault(entry["reason"], [])
            if len(entries) < SHOWN:
                entries.append({name: entry[name] for name in ("file", "line", "offset", "detail", "head")})
    return found


def dropped_section(samples: Mapping[str, Mapping[str, Iterable[Mapping[str, Any]]]]) -> str:
    """A folded table for each source and reason."""
    parts = [
        blocks.folded(
            f"{source}: {reason.replace('_', ' ')}",
            blocks.table(
                ["file", "line", "what is wrong", "beginning"],
                [[entry["file"], entry["line"], entry["detail"], entry["head"]] for entry in entries],
                f"Some of what {source} lost for this reason",
            ),
        )
        for source, reasons in samples.items()
        for reason, entries in reasons.items()
    ]
    return blocks.section("What was left out", *parts) if parts else ""
