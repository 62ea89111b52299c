"""What near-duplicate detection found in a corpus: the section of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart, axes, bar_axes, bars, column_axes, columns, line

SHOWN = 8  # clusters with their texts


def duplicate_section(near: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """Shares lost by source, sizes of clusters, the largest with examples, and what was found of pairs."""
    if not near:
        return "", []
    charts = [
        source_chart(near["sources"]),
        *_size_charts(near["cluster_texts_log2"]),
        band_chart(near["banding"]),
    ]
    pairs, buckets = near["pairs"], near["buckets"]
    said = (
        f"{near['clusters']:,} clusters. {pairs['compared']:,} pairs of texts were compared, "
        f"{pairs['near']:,} of them are near duplicates. {buckets['capped']:,} of {buckets['count']:,} "
        "buckets held more texts than max_bucket, and were compared in part."
    )
    parts = [blocks.paragraph(said), blocks.panels(chart.html() for chart in charts)]
    if near["largest_clusters"]:
        parts.append(cluster_cards(near["largest_clusters"][:SHOWN]))
        parts.append(blocks.folded("The largest clusters", cluster_table(near["largest_clusters"])))
    return blocks.section("Near duplicates", *parts), charts


def source_chart(sources: Mapping[str, Mapping[str, Any]]) -> Chart:
    """The share of each source that was dropped as near duplicates."""
    rows = [
        (name, found["documents"], found["dropped"], 100 * found["dropped"] / max(1, found["documents"]))
        for name, found in sources.items()
    ]
    most = max(rows, key=lambda row: row[3])
    names = [row[0] for row in rows]
    return Chart(
        "near-sources",
        "Dropped as near duplicates, by source",
        f"The most: {most[0]}, {most[2]:,} of {most[1]:,} documents ({most[3]:.3g} %).",
        [bars("dropped", [row[3] for row in rows], names, "--red", [f"{row[3]:.3g} %" for row in rows])],
        bar_axes("% of the source's documents", "source", len(rows)),
        ["source", "documents", "dropped", "%"],
        rows,
    )


def _size_charts(counts: Sequence[int]) -> list[Chart]:
    if not any(counts):
        return []
    rows = [(2**i, 2 ** (i + 1) - 1, count) for i, count in enumerate(counts) if i]
    return [
        Chart(
            "near-sizes",
            "How many texts a cluster holds",
            f"{sum(counts):,} clusters by their different texts; each bar goes from its number to twice as "
            "many.",
            [columns("clusters", [f"{start}" for start, _, _ in rows], [row[2] for row in rows], "--blue")],
            column_axes("texts of a cluster, from", "clusters"),
            ["texts, from", "texts, to", "clusters"],
            rows,
        )
    ]


def band_chart(banding: Mapping[str, Any]) -> Chart:
    """The chance that a pair is compared at all, by its similarity."""
    found = banding["found_by_similarity"]
    x, y = [float(similarity) for similarity in found], [100 * share for share in found.values()]
    return Chart(
        "near-bands",
        "Pairs that are found, by similarity",
        f"{banding['bands']} bands of {banding['rows']} rows find "
        f"{100 * banding['found_at_threshold']:.3g} % of the pairs whose similarity is the threshold, and "
        "more above it.",
        [line("found", x, y, "--blue")],
        axes("Jaccard similarity of two texts", "% of the pairs that are compared", 300),
        ["similarity", "% found"],
        list(zip(x, y, strict=True)),
    )


def cluster_cards(clusters: Sequence[Mapping[str, Any]]) -> str:
    """Beginnings of texts of one cluster side by side: the one that stays, then some that do not."""
    cards = []
    for cluster in clusters:
        sources = ", ".join(f"{name} {count:,}" for name, count in cluster["sources"].items())
        texts = [("stays", cluster["kept"]), *(("dropped", sample) for sample in cluster["samples"])]
        inside = "".join(
            f'<p class="note">{escape(kind)}: {escape(_place(text))}</p>'
            f'<pre tabindex="0">{escape(text["head"])}</pre>'
            for kind, text in texts
        )
        cards.append(
            f'<article class="card"><h4>{cluster["texts"]:,} texts ({escape(sources)})</h4>'
            f"{inside}</article>\n"
        )
    return f'<div class="cards">{"".join(cards)}</div>\n'


def cluster_table(clusters: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            cluster["texts"],
            ", ".join(cluster["sources"]),
            _place(cluster["kept"]),
            cluster["kept"]["head"][:80],
        ]
        for cluster in clusters
    ]
    return blocks.table(["texts", "sources", "the one that stays", "its beginning"], rows, "Largest clusters")


def _place(text: Mapping[str, Any]) -> str:
    return f"{text['file']}, byte {text['offset']:,}"
