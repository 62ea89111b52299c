"""A model on a text file or on the documents of its corpus: loss, bits; masks and pairs of a BERT."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import UserError
from data_jobs import open_corpus
from data_jobs.cleaning.cleaner import clean_text, recorded_rules
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.data.samples import MicroBatch
from llm.data.validation import Validation, validation_of_corpus, validation_of_tokens
from llm.evaluation.local_workers import share_of
from llm.evaluation.subject import Subject, text_start, trained
from llm.model.gpt import GPT
from llm.settings import PretrainSettings
from llm.tasks.metrics import perplexity, share_interval
from llm.train.group import Group
from llm.train.objective import Objective
from llm.train.run_order import make_rule
from llm.train.validate import Measured, measure, split_size

WORDS_OF = {"train": "training", "val": "validation"}
IMPORTED_LENGTH = 1024  # tokens of a window, where a model was made for many more


@dataclass(frozen=True)
class Text:
    """What is read: rows, and what they stand for."""

    what: str
    rows: Validation
    tokens: int
    size: int
    """UTF-8 bytes of those tokens."""


def text_of_file(subject: Subject, file: str, length: int | None, batch: int) -> Text:
    """A text file as one document, cleaned as the corpus was, in windows of so many tokens."""
    if subject.model.settings.kind == "bert":
        raise UserError("--text is for a gpt: a bert is measured on the sentences of its run's corpus")
    if not isinstance(subject.model, GPT):
        raise UserError("--text: this model has the head of a task, and tells no next token: try --data")
    if isinstance(subject.tokenizer, PixelTokenizer):
        raise UserError("--text is for a model of texts: one of images is measured on its run's corpus")
    length = length or _length(subject)
    if length > subject.model.settings.context:
        raise UserError(f"--length {length}: the model sees {subject.model.settings.context} tokens")
    try:
        text = Path(file).read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"--text {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {file}: not UTF-8 at byte {error.start}") from None
    text = clean_text(text, recorded_rules(subject.settings["corpus"]["clean"]))
    if not text:
        raise UserError(f"--text {file}: empty")
    # The document's end stands in front: the rows are cyclic, so the first token is predicted from it alone,
    # and the end itself after the last token.
    # A model that has its own beginning of a text (a bos) has it there.
    ids = np.insert(np.asarray(subject.tokenizer.encode(text)), 0, _start(subject))
    length = min(length, len(ids))  # rows are padded to the window: a short text takes a short one
    batch = min(batch, -(-len(ids) // length))
    return Text(file, validation_of_tokens(ids, length, batch), len(ids), len(text.encode()))


def text_of_corpus(subject: Subject, split: str, batch: int) -> Text:
    """A split of the corpus that the run was trained on, in rows as in training."""
    recorded = subject.settings["corpus"]
    if recorded["path"] is None or "pretrain" not in subject.settings:
        hint = "give --text FILE"
        if subject.model.settings.kind == "bert":
            hint = "train it on one, with pretrain.start_from, and evaluate that run"
        raise UserError(f"an imported model has no corpus of its own: {hint}")
    if split not in WORDS_OF:
        raise UserError(f"--split {split}: a corpus has the splits {', '.join(WORDS_OF)}")
    corpus = open_corpus(recorded["path"])
    if corpus.corpus_id != recorded["corpus_id"]:
        raise UserError(f"{corpus.path}: not the corpus that the run was trained on; give --text FILE")
    tokens, size = split_size(corpus, split)
    if not tokens:
        share = corpus.manifest["settings"]["val_fraction"]
        raise UserError(
            f"{corpus.path}: no {WORDS_OF[split]} documents: prepare it with another corpus.val_fraction (it "
            f"was {share:g}), or give --split or --text"
        )
    settings = PretrainSettings.model_validate(subject.settings["pretrain"])
    rule = make_rule(corpus, subject.model.settings, settings)
    rows = validation_of_corpus(corpus, split, settings.length, batch, rule=rule)
    return Text(f"{recorded['path']} {split}", rows, tokens, size)


def measure_text(subject: Subject, text: Text, precision: str, group: Group) -> tuple[dict[str, Any], str]:
    """The numbers, on all workers, and a line that says them.

    The micro-batches are the same for any number of workers, each goes through one of them.
    """
    objective = Objective(subject.model, precision).eval()
    guesses = _Guesses(subject.model.vocab_size)
    rows = (text.rows.micro(step) for step in share_of(range(text.rows.micro_steps), group))
    found = measure(subject.model, objective, guesses.watch(_ended(rows, subject)), group)
    if subject.model.settings.kind == "bert":
        result = _bert_result(found, subject, text, guesses.unigram_accuracy(group))
        return result, _bert_words(result)
    result = _gpt_result(found, subject, text)
    return result, _gpt_words(result)


def _length(subject: Subject) -> int:
    """Tokens of a window: as in training; of an imported model no more than IMPORTED_LENGTH."""
    length = int(trained(subject, "length", subject.model.settings.context))
    is_imported = not {"pretrain", "finetune"} & subject.settings.keys()
    return min(length, IMPORTED_LENGTH) if is_imported else length


def _start(subject: Subject) -> int:
    """The id that stands before a text."""
    return (text_start(subject) or [subject.tokenizer.eos_id])[-1]


def _ended(rows: Iterable[MicroBatch], subject: Subject) -> Iterator[MicroBatch]:
    """A text's rows are cyclic: where it begins with a mark of its own (a bos), its end is an eos instead."""
    start, eos = _start(subject), subject.tokenizer.specials.get("eos")
    for micro in rows:
        if eos is not None and start != eos:
            micro.targets[micro.targets == start] = eos
        yield micro


class _Guesses:
    """How often each token had to be guessed: what a guess of the most frequent one is worth."""

    def __init__(self, vocab_size: int) -> None:
        self.counts = np.zeros(vocab_size)

    def watch(self, rows: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """The rows, counted as they pass."""
        for micro in rows:
            self.counts += np.bincount(
                micro.targets.ravel(), micro.weights.ravel(), minlength=len(self.counts)
            )
            yield micro

    def unigram_accuracy(self, group: Group) -> float:
        """Accuracy of always guessing the token that is most frequent among these very targets."""
        counts = np.array(group.sum(self.counts.tolist()))
        return float(counts.max() / counts.sum())


def _gpt_result(found: Measured, subject: Subject, text: Text) -> dict[str, Any]:
    size = text.size * text.rows.tokens / text.tokens
    result = {
        "text": text.what,
        "step": subject.step,
        "tokens": round(found.counts["tokens"]),
        "bytes": round(size),
        "loss": found.loss,
        "perplexity": perplexity(found.loss, 1),
        "bits_per_byte": found.bits_per_byte(size),
        "windows": f"non-overlapping, {text.rows.length} tokens",
    }
    if isinstance(subject.tokenizer, PixelTokenizer):
        # Of pixels without the end of each image: its bits are counted, as a byte's are, and it is no pixel.
        pixels = subject.tokenizer.pixels
        result["bits_per_pixel"] = found.loss / math.log(2) * (pixels + 1) / pixels
    return result


def _gpt_words(result: dict[str, Any]) -> str:
    bits = f"{result['bits_per_byte']:.4f} bits per byte"
    if "bits_per_pixel" in result:
        bits = f"{result['bits_per_pixel']:.4f} bits per pixel"
    return (
        f"{result['text']}: loss {result['loss']:.4f} nats a token, perplexity {result['perplexity']:.2f}, "
        f"{bits} ({result['tokens']:,} tokens, {result['bytes']:,} "
        f"bytes, step {result['step']}, windows {result['windows']})"
    )


def _bert_result(found: Measured, subject: Subject, text: Text, unigram: float) -> dict[str, Any]:
    """Masked loss and accuracies; a BERT gives no probability of a text, so no bits per byte."""
    means, pairs = found.means, round(found.counts["pairs"])
    result = {
        "text": text.what,
        "step": subject.step,
        "masked_tokens": round(found.counts["tokens"]),
        "mlm_loss": means["mlm_loss"],
        "pseudo_perplexity": perplexity(means["mlm_loss"], 1),
        "masked_accuracy": means["masked_accuracy"],
        "unigram_accuracy": unigram,
    }
    if pairs:
        low, high = share_interval(means["nsp_accuracy"], pairs)
        result |= {
            "pairs": pairs,
            "nsp_loss": means["nsp_loss"],
            "nsp_accuracy": means["nsp_accuracy"],
            "nsp_accuracy_interval": [low, high],
        }
    return result


def _bert_words(result: dict[str, Any]) -> str:
    words = (
        f"{result['text']}: masked loss {result['mlm_loss']:.4f} nats, pseudo-perplexity "
        f"{result['pseudo_perplexity']:.2f}, masked accuracy {result['masked_accuracy']:.4f} (the most "
        f"frequent token: {result['unigram_accuracy']:.4f}) over {result['masked_tokens']:,} tokens"
    )
    if "pairs" in result:
        low, high = result["nsp_accuracy_interval"]
        words += (
            f"; next sentence accuracy {result['nsp_accuracy']:.4f} (95 %: {low:.4f} to {high:.4f}) over "
            f"{result['pairs']:,} pairs"
        )
    return f"{words}; step {result['step']}"
