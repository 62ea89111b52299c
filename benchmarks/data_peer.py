"""The peer of the data jobs: datatrove's own steps, in an environment of its own.

    PEER_PYTHON benchmarks/data_peer.py STEP DOCUMENTS.jsonl OUT.json [--tokenizer FILE] [--work FOLDER]

Run as a file by another Python than ours, so it imports nothing of this repository.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = ("gopher_quality", "gopher_repetition", "c4", "fineweb")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=(*FAMILIES, "filters", "minhash", "clean", "everything"))
    parser.add_argument("documents", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", help="tokenizer.json, for everything")
    parser.add_argument("--work", type=Path, help="an empty folder, for everything")
    options = parser.parse_args()
    if options.step == "everything":
        said: dict[str, Any] = everything(options.documents, options.tokenizer, options.work)
    else:
        texts = [json.loads(line)["text"] for line in options.documents.read_bytes().splitlines()]
        said = {"cpu_seconds": cpu_seconds(step_of(options.step), texts)}
    options.out.write_text(json.dumps(said))


def step_of(step: str) -> Callable[[str], object]:
    """What is done to one text."""
    if step == "minhash":
        from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

        stage = MinhashDedupSignature("/tmp")

        def sign(text: str) -> object:
            shingles = stage.get_shingles(text)
            return stage.get_signature(shingles) if shingles.size else None  # as its own loop does

        return sign
    if step == "clean":
        from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter

        formatters = [FTFYFormatter(), PIIFormatter()]
        return lambda text: [formatter.format(text) for formatter in formatters]
    from datatrove.data import Document

    chosen = filters() if step == "filters" else [dict(zip(FAMILIES, filters(), strict=True))[step]]

    def judge(text: str) -> bool:
        document = Document(text=text, id="")
        return all(rule.filter(document) is True for rule in chosen)

    return judge


def filters() -> list[Any]:
    """Its four families with their defaults, in the order of FAMILIES."""
    from datatrove.pipeline import filters as rules

    return [
        rules.GopherQualityFilter(),
        rules.GopherRepetitionFilter(),
        rules.C4QualityFilter(filter_no_terminal_punct=False),  # as FineWeb runs it, and our `web` recipe
        rules.FineWebQualityFilter(),
    ]


def cpu_seconds(step: Callable[[str], object], texts: list[str]) -> float:
    """CPU seconds of all texts, after one that loads what is loaded late."""
    step(texts[0])
    start = time.process_time()
    for text in texts:
        step(text)
    return time.process_time() - start


def everything(documents: Path, tokenizer: str, work: Path) -> dict[str, Any]:
    """Compressed JSON lines to shuffled files of tokens: filters, MinHash in its four stages, tokens."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter

    def run(name: str, *steps: Any, tasks: int = 1) -> None:
        LocalPipelineExecutor(
            list(steps), tasks=tasks, workers=1, logging_dir=str(work / "logs" / name)
        ).run()

    kept, signatures, buckets, removed = (
        str(work / name) for name in ("kept", "signatures", "buckets", "removed")
    )
    run(
        "filters",
        JsonlReader(str(documents.parent), glob_pattern=documents.name),
        *filters(),
        JsonlWriter(kept),
    )
    run("signatures", JsonlReader(kept), dedup.MinhashDedupSignature(signatures))
    run("buckets", dedup.MinhashDedupBuckets(signatures, buckets), tasks=14)
    run("cluster", dedup.MinhashDedupCluster(buckets, removed))
    run(
        "tokens",
        JsonlReader(kept),
        dedup.MinhashDedupFilter(removed),
        DocumentTokenizer(
            str(work / "tokens"),
            tokenizer_name_or_path=tokenizer,
            eos_token="<eos>",
            local_working_dir=str(work),
        ),
    )
    size = sum(path.stat().st_size for path in (work / "tokens").rglob("*.ds"))
    return {"token_bytes": size}


if __name__ == "__main__":
    main()
