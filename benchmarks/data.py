"""The data jobs beside datatrove: bytes a CPU second of each step, of all of them, and as a corpus grows.

Both get the same documents in one run; CPU seconds of user and system, of all threads and child processes.
datatrove is installed for this alone, into an environment of its own (peers.py).
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import growth, planted
from benchmarks.data_peer import FAMILIES
from benchmarks.ground import Ground
from benchmarks.peers import datatrove_python
from benchmarks.prose import prose
from benchmarks.rows import Row
from cluster.errors import RunError
from cluster.recipe import ROOT
from data_jobs.cleaning.clean_settings import CleanSettings
from data_jobs.cleaning.cleaner import Cleaner
from data_jobs.dedup.graph_kernels import star_forest
from data_jobs.dedup.minhash import permutations
from data_jobs.dedup.text_kernels import sign_texts
from data_jobs.filters.judging import BATCH_BYTES, Dropped, Judge
from data_jobs.reading.source_settings import SourceSettings
from data_jobs.settings import CorpusSettings
from data_jobs.tokens.text_column import TextColumn
from data_jobs.tokens.tokenizer import SentencePieceTokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer

DATATROVE = "datatrove 0.10.1"
RUNS = 5
VOCABULARY = 32_000
EDGES = 10_000_000
FILTERS: dict[str, dict[str, Any]] = {
    "gopher_quality": {},
    "gopher_repetition": {},
    "c4": {"terminal_punctuation": False},  # as FineWeb was made
    "fineweb": {},
}
CLEAN: dict[str, Any] = {
    "encoding": "repair",
    "zero_width": "remove",
    "white_space": ["runs", "trailing", "blank_lines"],
    "private_data": ["email", "phone", "ip", "card", "key"],
}
Step = Callable[[], object]


def run(ground: Ground) -> list[Row]:
    """All rows. A quick run has a few documents and no peer."""
    texts = prose(ground)
    work = Work(ground, texts)
    rows = [
        *work.filter_rows(),
        work.minhash_row(),
        work.clean_row(),
        *work.encoding_rows(),
        edges_row(ground),
    ]
    rows.append(work.everything_row())
    return [*rows, *planted.rows(ground, texts), *growth.rows(ground, texts)]


class Work:
    """Documents, and where the steps over them leave their files."""

    def __init__(self, ground: Ground, texts: Sequence[str]) -> None:
        self.ground, self.texts = ground, list(texts)
        self.size = sum(len(text.encode()) for text in texts)
        self.what = f"{len(texts):,} documents, {self.size / 1e6:.1f} MB"
        self.path = ground.fresh("documents").with_suffix(".jsonl")
        lines = [json.dumps({"id": i, "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.peer_python = None if ground.quick else datatrove_python(ground.say)

    def filter_rows(self) -> list[Row]:
        """Each family, then the four: one row for the rate, one for the ratio."""
        rows = []
        for family in FAMILIES:
            ours, dropped = self.judged({family: FILTERS[family]})
            rows.append(
                self.row(f"filter {family}", family, ours, None, f"{dropped:,} documents are dropped")
            )
        ours, dropped = self.judged(FILTERS)
        what, note = "filters, the four families", f"{dropped:,} documents are dropped"
        if self.peer_python is not None:
            rows.append(self.row(what, "filters", ours, "ratio >= 50", note))
        rate = self.size / 1e6 / statistics.median(ours)
        return [*rows, Row(what, "MB/s/core", rate, goal="ours >= 10", note=f"{self.what}; {note}")]

    def judged(self, filters: dict[str, Any]) -> tuple[list[float], int]:
        """CPU seconds of each run, and how many documents go."""
        settings = _settings({"filters": filters})
        judge = Judge(settings, settings.sources[0])
        batches = _batches(self.texts)
        dropped = 0

        def step() -> None:
            nonlocal dropped
            dropped = sum(isinstance(v, Dropped) for batch in batches for v in judge.judge(batch))

        return self.cpu_seconds(step), dropped

    def minhash_row(self) -> Row:
        """Signatures straight out of the text's buffer, shingling included."""
        column = TextColumn.of_texts(self.texts)
        a, b = permutations(112)
        signatures = np.empty((len(self.texts), len(a)), np.uint8)
        counts = np.empty(len(self.texts), np.int64)
        seconds = self.cpu_seconds(
            lambda: sign_texts(column.data, column.bounds, 5, a, b, signatures, counts)
        )
        return self.row("MinHash signatures, 14 x 8, words by 5", "minhash", seconds, "ours >= 100")

    def clean_row(self) -> Row:
        """All that prose may be cleaned of, but for spelling."""
        cleaner = Cleaner(CleanSettings.model_validate(CLEAN))
        seconds = self.cpu_seconds(lambda: [cleaner.clean(text) for text in self.texts])
        changed = sum(change.documents for change in cleaner.changes.values()) // (len(seconds) + 1)
        note = (
            f"encoding, invisible characters, white space, private data, NFC; {changed:,} documents changed"
        )
        return self.row(
            "cleaning", "clean", seconds, "ours >= 50", f"{note}; the peer's: ftfy, e-mail and IP"
        )

    def encoding_rows(self) -> list[Row]:
        """BPE: ours beside the library that it must equal, and a second pass over the same text."""
        tokenizer = self.tokenizer()
        column = TextColumn.of_texts(self.texts)
        cold = self.cpu_seconds(lambda: _anew(tokenizer).encode_column(column), warm=False)
        warm = self.cpu_seconds(lambda: tokenizer.encode_column(column))
        model = tokenizer.processor
        plain = self.cpu_seconds(lambda: model.encode_as_numpy(self.texts, num_threads=1))
        ours, peer = (self.size / 1e6 / statistics.median(found) for found in (cold, plain))
        note = f"{self.what}, vocabulary {tokenizer.vocab_size:,}; a fresh cache each run; {_figures(cold)} s"
        return [
            Row("BPE encoding, one pass", "MB/s/core", ours, peer, "plain SentencePiece", "ours >= 12", note),
            Row(
                "BPE encoding, words known",
                "MB/s/core",
                self.size / 1e6 / statistics.median(warm),
                note=self.what,
            ),
        ]

    def tokenizer(self) -> SentencePieceTokenizer:
        """Trained on the documents."""
        vocabulary = 1000 if self.ground.quick else VOCABULARY
        made = train_tokenizer(self.texts, TokenizerSettings(vocab_size=vocabulary))
        assert isinstance(made, SentencePieceTokenizer)
        return made

    def everything_row(self) -> Row:
        """Compressed JSON lines to shards, with filters and verified deduplication, by a given tokenizer."""
        ground = self.ground
        given = ground.fresh("input") / "documents.jsonl.gz"
        given.parent.mkdir()
        given.write_bytes(gzip.compress(self.path.read_bytes(), 6))
        tokenizer = ground.fresh("tokenizer")
        self.tokenizer().save(tokenizer)
        corpus = {
            "sources": [{"name": "prose", "path": str(given)}],
            "filters": FILTERS,
            "dedup": "minhash",
            "tokenizer": {"path": str(tokenizer)},
            "val_fraction": 0.0,
        }
        recipe = ground.fresh("everything").with_suffix(".yaml")
        recipe.write_text(yaml.safe_dump({"corpus": corpus}))

        def prepare() -> float:
            out = str(ground.fresh("corpus"))
            return child_cpu_seconds(
                [
                    sys.executable,
                    "-m",
                    "data_jobs.prepare",
                    str(recipe),
                    "--engine",
                    "local",
                    "--corpus.out",
                    out,
                ]
            )

        prepare()  # compiles what is not compiled yet
        ours = [prepare() for _ in range(1 if ground.quick else 3)]
        peer = None if self.peer_python is None else self.peer_everything(given)
        ground.say(f"everything: {_figures(ours)} CPU seconds, peer {peer or 0:.0f}")
        return Row(
            "everything: .jsonl.gz to shards",
            "MB/s/core",
            self.size / 1e6 / statistics.median(ours),
            None if peer is None else self.size / 1e6 / peer,
            None if peer is None else DATATROVE,
            "ours >= 4" if peer is None else "ratio >= 25",
            f"{self.what}; reading, four filters, MinHash, verified duplicates, encoding, shards, start of "
            f"the process; {_figures(ours)} CPU seconds, the peer's {peer or 0:.0f}",
        )

    def peer_everything(self, given: Path) -> float:
        """CPU seconds of the same steps of datatrove's."""
        work, out = self.ground.fresh("peer"), self.ground.fresh("peer-out")
        work.mkdir()
        tokenizer = self.ground.fresh("tokenizer").with_suffix(".json")
        _train_byte_bpe(self.texts, tokenizer)
        return child_cpu_seconds(
            [
                str(self.peer_python), str(ROOT / "benchmarks" / "data_peer.py"), "everything", str(given),
                str(out),
                "--tokenizer", str(tokenizer), "--work", str(work),
            ]
        )  # fmt: skip

    def row(self, what: str, step: str, ours: Sequence[float], goal: str | None, note: str = "") -> Row:
        """A step of ours beside the peer's, in bytes a CPU second."""
        peer = self.peer_seconds(step)
        rate = self.size / 1e6 / statistics.median(ours)
        self.ground.say(
            f"{what}: {rate:.1f} MB/s/core" + (f", peer {self.size / 1e6 / peer:.2f}" if peer else "")
        )
        notes = [self.what, f"{len(ours)} runs of {_figures(ours)} s", *([note] if note else [])]
        if peer is None:
            return Row(
                what,
                "MB/s/core",
                rate,
                goal=None if goal and "ratio" in goal else goal,
                note="; ".join(notes),
            )
        return Row(what, "MB/s/core", rate, self.size / 1e6 / peer, DATATROVE, goal, "; ".join(notes))

    def peer_seconds(self, step: str) -> float | None:
        """One run of the peer's, which takes minutes where ours takes a second."""
        if self.peer_python is None:
            return None
        out = self.ground.fresh("peer").with_suffix(".json")
        child_cpu_seconds(
            [str(self.peer_python), str(ROOT / "benchmarks" / "data_peer.py"), step, str(self.path), str(out)]
        )
        seconds: float = json.loads(out.read_bytes())["cpu_seconds"]
        return seconds

    def cpu_seconds(self, step: Step, warm: bool = True) -> list[float]:
        """Of several runs, after one that compiles."""
        if warm:
            step()
        found = []
        for _ in range(2 if self.ground.quick else RUNS):
            start = time.process_time()
            step()
            found.append(time.process_time() - start)
        return found


def edges_row(ground: Ground) -> Row:
    """Components of a random graph."""
    edges = 10_000 if ground.quick else EDGES
    chance = np.random.default_rng(0)
    one, other = chance.integers(0, edges // 2, (2, edges)).astype(np.uint64)
    star_forest(one[:1000], other[:1000])
    found = []
    for _ in range(3):
        start = time.process_time()
        star_forest(one, other)
        found.append(time.process_time() - start)
    return Row(
        f"components over {edges:,} random edges", "CPU seconds", statistics.median(found), goal="ours <= 5",
        note=f"half as many documents as edges; {_figures(found)} s",
    )  # fmt: skip


def child_cpu_seconds(command: Sequence[str]) -> float:
    """CPU seconds of a process and its children. RunError where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=environment
    )
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _settings(corpus: dict[str, Any]) -> CorpusSettings:
    return CorpusSettings.model_validate({"sources": [SourceSettings(name="prose", path=".")], **corpus})


def _batches(texts: Sequence[str]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    held = 0
    for text in texts:
        if held >= BATCH_BYTES:
            batches.append([])
            held = 0
        batches[-1].append(text)
        held += len(text)
    return batches


def _anew(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    """The same with an empty cache."""
    return SentencePieceTokenizer(tokenizer.model)


def _train_byte_bpe(texts: Sequence[str], path: Path) -> None:
    """What the peer's tokenizing step takes: Hugging Face's byte-level BPE with as many entries."""
    import tokenizers

    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=["<eos>"], show_progress=False)
    made.save(str(path))


def _figures(seconds: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in seconds)
