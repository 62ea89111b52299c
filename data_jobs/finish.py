"""From the receipts of all tasks to the files of a finished corpus, the manifest last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.fault_points import fault_point
from cluster.places import sync_folder, write_bytes, write_json
from cluster.sealed import seal
from data_jobs import state
from data_jobs.ledger import Count, chain, total
from data_jobs.reading.inputs import InputFile, Split
from data_jobs.reading.missing import is_left_out
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.rejects import RejectSample
from data_jobs.report import make_report, texts_of_report, write_rejected
from data_jobs.settings import CorpusSettings, metadata_of
from data_jobs.shards.manifest import INDEX, MANIFEST, SHARDS, TOKENIZER, Shard, index_bytes, make_manifest
from data_jobs.tokens.sentences import rule_of
from data_jobs.tokens.spill_task import token_dtype
from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.work import Job, Receipt

StageReceipts = dict[str, Sequence[tuple[int, Receipt]]]
"""Stage of the ledger, in order, to (number of the source, receipt); a receipt has the count by that name.

Runs of equal content share a receipt, which stands there once for each of them.
"""


@dataclass(frozen=True)
class Finished:
    """Everything that was done, each with its receipt."""

    settings: CorpusSettings
    files: Sequence[InputFile]
    cleaned: Sequence[tuple[Split, Receipt]]
    stages: StageReceipts
    merged: Sequence[tuple[Job, Receipt]]
    tokenizer: Tokenizer
    rejects: RejectSample
    """Of what was dropped, in all stages."""
    near_duplicates: dict[str, Any] | None = None
    """What the report says of them, where they were looked for."""

    def counts(self) -> dict[str, dict[str, Count]]:
        """Source to stage to count."""
        return _counts(self.settings, self.stages)

    def shards(self) -> list[Shard]:
        """The index, in the order of sources, train before val; empty ranges have no file."""
        return [
            Shard(
                part=0,
                split=job["split"],
                source=job["source"],
                name=f"{SHARDS}/{done['file']}",
                **{unit: done[unit] for unit in ("documents", "tokens", "bytes", "values_at", "digest")},
            )
            for job, done in self.merged
            if done["file"]
        ]

    def pieces(self) -> list[dict[str, Any]]:
        """What was read of which file."""
        return [{"source": split.source, **piece} for split, done in self.cleaned for piece in done["pieces"]]


def write_corpus(out: Path, fixed: dict[str, Any], done: Finished, spent: dict[str, Any]) -> dict[str, Any]:
    """Write what stands beside the shards, then the manifest, which makes it a corpus.

    `spent`: {seconds, costs} by stage, for the report.
    """
    shards, counts, tokenizer = done.shards(), done.counts(), done.tokenizer
    if not shards:
        raise UserError(_nothing_left(done.settings, counts))
    whole = total(chain(by_stage.values()) for by_stage in counts.values())
    whole.check("the corpus")
    manifest = make_manifest(
        fixed,
        {
            "kind": tokenizer.kind,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "specials": tokenizer.specials,
        },
        token_dtype(tokenizer.vocab_size).itemsize,
        [
            {
                "name": source.name,
                "format": source.format,
                "weight": source.weight,
                "sentence_rule": rule_of(source.format),
                "metadata": metadata_of(source),
            }
            for source in done.settings.sources
        ],
        shards,
        [
            {"stage": stage, "source": source, **counts[source][stage].to_json()}
            for source in counts
            for stage in counts[source]
        ],
        whole.to_json(),
    )
    tokenizer.save(out / TOKENIZER)
    write_bytes(out / INDEX, index_bytes(shards))
    _sweep(out / SHARDS, shards)
    pieces = done.pieces()
    write_rejected(out / state.REJECTED, done.rejects.entries(), pieces)
    state.write_input(out, done.files, done.settings.sources, pieces)
    receipts = [receipt for _, receipt in done.merged]
    report = make_report(manifest, receipts, pieces, spent, done.near_duplicates)
    texts = texts_of_report(
        [receipt for _, receipt in done.cleaned], [receipt for _, receipt in done.stages["filter"]]
    )
    write_json(out / state.REPORT, {**report, **texts})
    fault_point("prepare.before_manifest")
    write_bytes(out / MANIFEST, seal(manifest))
    fault_point("prepare.after_manifest")
    return manifest


def check_readable(
    settings: CorpusSettings, splits: Sequence[Split], cleaned: Sequence[Receipt], rejects: RejectSample
) -> None:
    """UserError where too much could not be read: a wrong field name must not give an empty corpus."""
    for number, source in enumerate(settings.sources):
        own = [done for split, done in zip(splits, cleaned) if split.source == number]
        count = _total(own, "read")
        left_out = {r: n for r, n in count.documents_dropped.items() if is_left_out(source, r)}
        bad = {r: n for r, n in count.documents_dropped.items() if r not in left_out}
        records = count.documents_in - sum(left_out.values())  # what was to be left out is none of them
        allowed = 0.0 if settings.on_bad == "fail" else settings.max_bad_fraction * records
        if sum(bad.values()) > allowed:
            raise UserError(_too_many_bad(settings, source.name, records, bad, own, rejects))
        if 0 < count.documents_in == left_out.get("missing_text", 0):
            raise UserError(_no_text(source, count.documents_in, own))


def check_left(settings: CorpusSettings, stages: StageReceipts) -> None:
    """UserError where nothing is left to make a corpus of, before a tokenizer is trained on it."""
    counts = _counts(settings, stages)
    if not any(list(by_stage.values())[-1].documents_out for by_stage in counts.values()):
        raise UserError(_nothing_left(settings, counts))


def _no_text(source: SourceSettings, records: int, own: Sequence[Receipt]) -> str:
    return (
        f"source '{source.name}': none of {records:,} records has a text in its field '{source.text_field}'."
        f"{_fields_seen(own)} Set its text_field"
    )


def _fields_seen(own: Sequence[Receipt]) -> str:
    fields = sorted({name for done in own for name in done["fields"]})
    return f" Fields seen in them: {', '.join(fields)}." if fields else ""


def _too_many_bad(
    settings: CorpusSettings,
    source: str,
    records: int,
    bad: dict[str, int],
    own: Sequence[Receipt],
    rejects: RejectSample,
) -> str:
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(bad.items()))
    one = next(e for e in rejects.entries() if e["source"] == source and e["reason"] in bad)
    limit = (
        "and corpus.on_bad is fail"
        if settings.on_bad == "fail"
        else f"more than corpus.max_bad_fraction = {settings.max_bad_fraction}"
    )
    return (
        f"source '{source}': {sum(bad.values()):,} of {records:,} records cannot be read ({reasons}), "
        f"{limit}.{_fields_seen(own)} One of them: {one['file']}, byte {one['offset']}: {one['detail']}: "
        f"{one['head']}"
    )


def _nothing_left(settings: CorpusSettings, counts: dict[str, dict[str, Count]]) -> str:
    lines = []
    paths = {source.name: source.path for source in settings.sources}
    for source, stages in counts.items():
        read = stages["read"].documents_in
        reasons = [
            f"{reason} {n:,}" for count in stages.values() for reason, n in count.documents_dropped.items()
        ]
        dropped = f", dropped: {', '.join(reasons)}" if reasons else ""
        lines.append(f"source '{source}' ({paths[source]}): {read:,} documents in the input{dropped}")
    return (
        "no document is left, so there is no corpus to write: give corpus.sources other files; "
        + "; ".join(lines)
    )


def _sweep(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what an earlier start with other input left among the shards."""
    named = {Path(shard.name).name for shard in shards}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()
    sync_folder(folder)


def _counts(settings: CorpusSettings, stages: StageReceipts) -> dict[str, dict[str, Count]]:
    return {
        source.name: {
            stage: _total([done for n, done in receipts if n == number], stage)
            for stage, receipts in stages.items()
        }
        for number, source in enumerate(settings.sources)
    }


def _total(receipts: Iterable[Receipt], stage: str) -> Count:
    return total(Count.from_json(receipt[stage]) for receipt in receipts)
