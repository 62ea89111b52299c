"""A corpus folder to numbers, and those to the blocks and charts of its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.places import Place
from data_jobs import open_corpus
from llm.pages import blocks
from llm.pages.charts import Chart, bar_axes, bars, column_axes, columns
from llm.pages.dropped import dropped_samples, dropped_section
from llm.pages.duplicates import duplicate_section
from llm.pages.texts import cost_section, text_section


def corpus_numbers(corpus: Place) -> dict[str, Any]:
    """Everything that the page of a corpus shows, out of its manifest.json and report.json."""
    manifest = open_corpus(str(corpus), "read").manifest
    path = corpus / "report.json"
    report = json.loads(path.read_bytes()) if path.is_file() else {}
    return {
        "name": corpus.resolve().name,
        "corpus_id": manifest["corpus_id"],
        "counts": manifest["counts"],
        "stages": manifest["stages"],
        "sources": [
            {"source": source["name"], "split": split, **totals}
            for source in manifest["sources"]
            for split, totals in source["splits"].items()
        ],
        "settings": manifest["settings"],
        "tokenizer": report.get("tokenizer", manifest["tokenizer"]),
        "document_tokens_log2": report.get("document_tokens_log2", []),
        "damaged_files": report.get("damaged_files", []),
        "near_duplicates": report.get("near_duplicates", {}),
        "dropped": dropped_samples(corpus),
        "histograms": report.get("histograms", {}),
        "changes": report.get("changes", {}),
        "corrections": report.get("corrections", []),
        "seconds": report.get("seconds", {}),
        "costs": report.get("costs", {}),
        "machine": report.get("machine", {}),
    }


def corpus_body(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The page of a corpus: its HTML between header and footer, and its charts."""
    documents, charts = document_section(numbers)
    sources, source_charts = source_section(numbers)
    duplicates, duplicate_charts = duplicate_section(numbers["near_duplicates"])
    charts += duplicate_charts
    body = (
        blocks.tiles(corpus_tiles(numbers))
        + documents
        + duplicates
        + dropped_section(numbers["dropped"])
        + sources
    )
    for part, part_charts in (text_section(numbers), cost_section(numbers)):
        body += part
        charts += part_charts
    folded = [
        blocks.folded(name.capitalize(), blocks.values_table(numbers[name], name))
        for name in ("settings", "tokenizer", "machine")
        if numbers[name]
    ]
    return body + blocks.section("Settings and machine", *folded), [*charts, *source_charts]


def corpus_tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key numbers of a corpus."""
    documents, tokens = numbers["counts"]["documents"], total(numbers, "tokens")
    return [
        ("Documents in", blocks.number(documents["in"]), ""),
        ("Documents out", blocks.number(documents["out"]), ""),
        ("Dropped", blocks.number(sum(documents["dropped"].values())), "documents, each with a reason"),
        ("Training tokens", blocks.short(total(numbers, "tokens", "train")), ""),
        ("Validation tokens", blocks.short(total(numbers, "tokens", "val")), ""),
        ("Text", blocks.short(total(numbers, "bytes")), "bytes"),
        (
            "Bytes per token",
            blocks.number(total(numbers, "bytes") / tokens, 3) if tokens else "–",
            "ends included",
        ),
        ("Vocabulary", blocks.number(numbers["tokenizer"].get("vocab_size")), "entries"),
        ("Shards", blocks.number(total(numbers, "shards")), ""),
    ]


def total(numbers: Mapping[str, Any], what: str, split: str | None = None) -> int:
    """The sum of a count over the sources, of one split or of all."""
    return sum(row[what] for row in numbers["sources"] if split in (None, row["split"]))


def document_section(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """From documents in to documents out, what each reason took, and how long those are that stay."""
    documents = numbers["counts"]["documents"]
    charts = [funnel_chart(documents, funnel_steps(numbers["stages"]))]
    if documents["dropped"]:
        charts.append(dropped_chart(documents["dropped"]))
    if numbers["document_tokens_log2"]:
        charts.append(length_chart(numbers["document_tokens_log2"]))
    warnings = [blocks.paragraph(f"Damaged file: {file}", "warning") for file in numbers["damaged_files"]]
    if documents["in"] + documents["added"] != documents["out"] + sum(documents["dropped"].values()):
        warnings.append(blocks.paragraph("Documents in and added are not those out and dropped.", "warning"))
    ledger = blocks.folded("Every count, by stage and source", stage_table(numbers["stages"]))
    return blocks.section("Documents", *warnings, blocks.panels(c.html() for c in charts), ledger), charts


def funnel_steps(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """(stage: reason, documents lost) in the order of the stages, over all sources; less than 0: added."""
    steps: dict[str, int] = {}
    for name in dict.fromkeys(row["stage"] for row in stages):
        for row in stages:
            if row["stage"] == name:
                changes = {"long documents cut": -row["documents"]["added"], **row["documents"]["dropped"]}
                for reason, count in changes.items():
                    step = f"{name}: {reason_text(reason)}"
                    steps[step] = steps.get(step, 0) + count
    return [(step, count) for step, count in steps.items() if count]


def funnel_chart(documents: Mapping[str, Any], steps: Sequence[tuple[str, int]]) -> Chart:
    """What remains after each reason, and what that reason took."""
    left, rows = documents["in"], [("documents in", documents["in"], 0)]
    for name, lost in steps:
        left -= lost
        rows.append((name, left, max(0, lost)))
    rows.append(("documents out", documents["out"], 0))
    names = [name for name, _, _ in rows]
    share = 100 * documents["out"] / documents["in"] if documents["in"] else 0.0
    dropped = documents["dropped"]
    return Chart(
        "funnel",
        "From documents in to documents out",
        f"Of {documents['in']:,} documents {documents['out']:,} ({share:.3g} %) are in the corpus; "
        f"{sum(dropped.values()):,} were dropped, each with a reason.",
        [
            bars("remain", [row[1] for row in rows], names, "--blue", [f"{row[1]:,}" for row in rows]),
            bars("dropped here", [row[2] for row in rows], names, "--red"),
        ],
        bar_axes("documents", "stage: reason", len(rows), stacked=True),
        ["stage: reason", "documents that remain", "documents dropped here"],
        rows,
    )


def dropped_chart(dropped: Mapping[str, int]) -> Chart:
    """The reasons alone, since a few dozen documents do not show beside thousands."""
    rows = sorted(
        ((reason_text(reason), count) for reason, count in dropped.items()), key=lambda row: -row[1]
    )
    most = rows[0]
    return Chart(
        "dropped",
        "Dropped documents by reason",
        f"The most frequent reason: {most[0]}, {most[1]:,} documents.",
        [
            bars(
                "dropped",
                [row[1] for row in rows],
                [row[0] for row in rows],
                "--red",
                [f"{r[1]:,}" for r in rows],
            )
        ],
        bar_axes("documents dropped", "reason", len(rows)),
        ["reason", "documents dropped"],
        rows,
    )


def length_chart(counts: Sequence[int]) -> Chart:
    """How long the documents are: bin i holds those of 2^i to 2^(i+1) - 1 tokens."""
    first = next((i for i, count in enumerate(counts) if count), 0)
    rows = [(2**i, 2 ** (i + 1) - 1, count) for i, count in enumerate(counts) if i >= first]
    names = [f"{start}" if start < 1024 else f"{start // 1024} Ki" for start, _, _ in rows]
    return Chart(
        "lengths",
        "Length of the documents that stay",
        f"{sum(counts):,} documents by tokens, end included; each bar goes from its number to twice as many.",
        [columns("documents", names, [row[2] for row in rows], "--blue")],
        column_axes("tokens of a document, from", "documents"),
        ["tokens, from", "tokens, to", "documents"],
        rows,
    )


def stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """The ledger: in and added = out and dropped (and, for bytes, removed), by stage and source."""
    head = ["stage", "source", "unit", "in", "added", "dropped", "removed", "out"]
    rows = [
        [row["stage"], row["source"], unit, count["in"], count["added"], sum(count["dropped"].values()),
         count.get("removed"), count["out"]]
        for row in stages
        for unit, count in (("documents", row["documents"]), ("bytes", row["bytes"]))
    ]  # fmt: skip
    return blocks.table(head, rows, "In and added are out, dropped and removed together")


def reason_text(reason: str) -> str:
    return reason.replace("_", " ")


def source_section(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """Each source and split: a table always, a picture where there are several."""
    head = ["source", "split", "shards", "documents", "tokens", "bytes", "bytes per token"]
    rows = [
        [*(row[name] for name in head[:-1]), row["bytes"] / row["tokens"] if row["tokens"] else None]
        for row in numbers["sources"]
    ]
    chart = source_chart(numbers["sources"]) if len(rows) > 1 else None
    picture = chart.html() if chart else ""
    return (
        blocks.section("Sources", picture, blocks.table(head, rows, "Corpus by source and split")),
        [chart] if chart else [],
    )


def source_chart(sources: Sequence[Mapping[str, Any]]) -> Chart:
    """Tokens of each source and split."""
    names = [f"{row['source']}, {row['split']}" for row in sources]
    tokens = [row["tokens"] for row in sources]
    return Chart(
        "sources",
        "Tokens by source and split",
        f"{sum(tokens):,} tokens in all.",
        [bars("tokens", tokens, names, "--blue", [blocks.short(count) for count in tokens])],
        bar_axes("tokens", "source, split", len(names)),
        ["source, split", "tokens"],
        list(zip(names, tokens, strict=True)),
    )
