"""What a report says of near duplicates: counts by source, sizes of clusters, the largest ones, alarms.

Clusters are counted in distinct texts; documents, copies among them, in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_jobs.dedup.choose_task import TOP, TOP_OF_SOURCE
from data_jobs.dedup.dedup_settings import MinhashSettings
from data_jobs.dedup.minhash import curve, deviation, found_share
from data_jobs.ledger import Count, total
from data_jobs.report import add_counts
from data_jobs.work import Receipt


def near_report(
    wanted: MinhashSettings,
    verdicts: Sequence[tuple[str, Receipt]],
    buckets: Sequence[Receipt],
    chosen: Sequence[Receipt],
) -> dict[str, Any]:
    """`verdicts`: name of the source and receipt of each run."""
    sources = {}
    for name in dict.fromkeys(name for name, _ in verdicts):
        count = total(Count.from_json(done["near_duplicates"]) for n, done in verdicts if n == name)
        found = [cluster for done in chosen for cluster in done["largest_of_source"].get(name, [])]
        found.sort(key=lambda cluster: (-cluster["own_texts"], _place(cluster)))
        sources[name] = {
            "documents": count.documents_in,
            "dropped": count.documents_in - count.documents_out,
            "largest_clusters": found[:TOP_OF_SOURCE],
        }
    largest = [cluster for done in chosen for cluster in done["largest"]]
    largest.sort(key=lambda cluster: (-cluster["texts"], _place(cluster)))
    return {
        "sources": sources,
        "clusters": sum(done["clusters"] for done in chosen),
        "cluster_texts_log2": add_counts([done["sizes_log2"] for done in chosen]),
        "largest_clusters": largest[:TOP],
        "pairs": {
            name: sum(done[name] for done in buckets) for name in ("compared", "near", "unlike_signatures")
        },
        "buckets": {
            "count": sum(done["buckets"] for done in buckets),
            "largest": max(done["largest_bucket"] for done in buckets),
            "capped": sum(done["capped_buckets"] for done in buckets),
        },
        "banding": {
            "bands": wanted.bands,
            "rows": wanted.rows,
            "found_by_similarity": curve(wanted.bands, wanted.rows),
            "found_at_threshold": round(found_share(wanted.threshold, wanted.bands, wanted.rows), 6),
            "deviation_at_threshold": round(deviation(wanted.threshold, wanted.bands * wanted.rows), 6),
        },
    }


def alarms(report: dict[str, Any], fraction: float) -> list[str]:
    """A warning for each source that lost more than this share; `report`: what `near_report` made."""
    lines = []
    for name, source in report["sources"].items():
        if source["dropped"] > fraction * source["documents"]:
            clusters = "; ".join(
                f"{cluster['own_texts']:,} texts like '{cluster['kept']['head'][:60]}' "
                f"({cluster['kept']['file']}, byte {cluster['kept']['offset']})"
                for cluster in source["largest_clusters"]
            )
            lines.append(
                f"source '{name}' lost {source['dropped']:,} of {source['documents']:,} documents as near "
                f"duplicates, more than corpus.minhash.alarm_fraction ({fraction:g}); its largest clusters: "
                f"{clusters}"
            )
    return lines


def _place(cluster: dict[str, Any]) -> tuple[str, int]:
    return cluster["kept"]["file"], cluster["kept"]["offset"]
