"""Measure a trained model on its corpus or a text file: `python -m llm.evaluate RUN [--text FILE]`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError, run_command
from data_jobs import open_corpus
from data_jobs.cleaning.cleaner import clean_text, recorded_rules
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.data.samples import MicroBatch
from llm.data.validation import Validation, validation_of_corpus, validation_of_tokens
from llm.loading import Loaded, load
from llm.settings import PretrainSettings
from llm.tasks.metrics import perplexity, share_interval
from llm.train.group import Group
from llm.train.objective import Objective
from llm.train.run_order import make_rule
from llm.train.validate import Measured, measure, split_size

WORDS_OF = {"train": "training", "val": "validation"}
IMPORTED_LENGTH = 1024  # tokens of a window, where a model was made for many more


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    loaded = load(options.run)
    is_bert = loaded.model.settings.kind == "bert"
    if options.text:
        if is_bert:
            raise UserError("--text is for a gpt: a bert is measured on the sentences of its run's corpus")
        if isinstance(loaded.tokenizer, PixelTokenizer):
            raise UserError("--text is for a model of texts: one of images is measured on its run's corpus")
        length = options.length or _length(loaded)
        if length > loaded.model.settings.context:
            raise UserError(f"--length {length}: the model sees {loaded.model.settings.context} tokens")
        rows, tokens, size = _text_rows(loaded, Path(options.text), length, options.batch)
        what = options.text
    else:
        rows, tokens, size = _corpus_rows(loaded, options.split, options.batch)
        what = f"{loaded.settings['corpus']['path']} {options.split}"
    objective = Objective(loaded.model, options.precision or _trained(loaded, "precision", "fp32")).eval()
    guesses = _Guesses(loaded.model.vocab_size)
    with torch.no_grad():
        found = measure(
            loaded.model, objective, guesses.watch(_ended(rows, loaded)), Group(0, 1, torch.device("cpu"))
        )
    if is_bert:
        result = _bert_result(found, loaded, what, guesses)
    else:
        result = _gpt_result(found, loaded, what, size * rows.tokens / tokens, rows.length)
    if options.json:
        print(json.dumps(result))
    else:
        print(_bert_words(result) if is_bert else _gpt_words(result))
    return 0


def _ended(rows: Iterable[MicroBatch], loaded: Loaded) -> Iterator[MicroBatch]:
    """A text's rows are cyclic: where it begins with a mark of its own (a bos), its end is an eos instead."""
    start, eos = _start(loaded), loaded.tokenizer.specials.get("eos")
    for micro in rows:
        if eos is not None and start != eos:
            micro.targets[micro.targets == start] = eos
        yield micro


def _start(loaded: Loaded) -> int:
    """What stands before a text."""
    start: list[int] = loaded.settings.get("text_start") or [loaded.tokenizer.eos_id]
    return start[-1]


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

    @property
    def unigram_accuracy(self) -> float:
        """Accuracy of always guessing the token that is most frequent among these very targets."""
        return float(self.counts.max() / self.counts.sum())


def _trained(loaded: Loaded, name: str, otherwise: Any) -> Any:
    """A setting of the training; `otherwise` for an imported model."""
    return loaded.settings.get("pretrain", {}).get(name, otherwise)


def _length(loaded: Loaded) -> int:
    """Tokens of a window: as in training; of an imported model no more than IMPORTED_LENGTH."""
    length = int(_trained(loaded, "length", loaded.model.settings.context))
    return min(length, IMPORTED_LENGTH) if loaded.settings["corpus"]["path"] is None else length


def _text_rows(loaded: Loaded, file: Path, length: int, batch: int) -> tuple[Validation, int, int]:
    """A text file as one document, cleaned as the corpus was."""
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"--text {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {file}: not UTF-8 at byte {error.start}") from None
    text = clean_text(text, recorded_rules(loaded.settings["corpus"]["clean"]))
    if not text:
        raise UserError(f"--text {file}: empty")
    # The document's end stands in front: the rows are cyclic, so the first token is predicted from it alone,
    # and the end itself after the last token.
    # A model that has its own beginning of a text (a bos) has it there.
    ids = np.insert(np.asarray(loaded.tokenizer.encode(text)), 0, _start(loaded))
    length = min(length, len(ids))  # rows are padded to the window: a short text takes a short one
    batch = min(batch, -(-len(ids) // length))
    return validation_of_tokens(ids, length, batch), len(ids), len(text.encode())


def _corpus_rows(loaded: Loaded, split: str, batch: int) -> tuple[Validation, int, int]:
    if loaded.settings["corpus"]["path"] is None:
        hint = "give --text FILE"
        if loaded.model.settings.kind == "bert":
            hint = "train it on one, with pretrain.start_from, and evaluate that run"
        raise UserError(f"an imported model has no corpus of its own: {hint}")
    corpus = open_corpus(loaded.settings["corpus"]["path"])
    if corpus.corpus_id != loaded.settings["corpus"]["corpus_id"]:
        raise UserError(f"{corpus.path}: not the corpus that the run was trained on; give --text FILE")
    tokens, size = split_size(corpus, split)
    if not tokens:
        share = corpus.manifest["settings"]["val_fraction"]
        raise UserError(
            f"{corpus.path}: no {WORDS_OF[split]} documents: prepare it with another corpus.val_fraction (it "
            f"was {share:g}), or give --split or --text"
        )
    trained = PretrainSettings.model_validate(loaded.settings["pretrain"])
    rule = make_rule(corpus, loaded.model.settings, trained)
    return validation_of_corpus(corpus, split, trained.length, batch, rule=rule), tokens, size


def _gpt_result(found: Measured, loaded: Loaded, what: str, size: float, length: int) -> dict[str, Any]:
    result = {
        "text": what,
        "step": loaded.step,
        "tokens": round(found.counts["tokens"]),
        "bytes": round(size),
        "loss": found.loss,
        "perplexity": perplexity(found.loss, 1),
        "bits_per_byte": found.bits_per_byte(size),
        "windows": f"non-overlapping, {length} tokens",
    }
    if isinstance(loaded.tokenizer, PixelTokenizer):
        # Of pixels without the end of each image: its bits are counted, as a byte's are, and it is no pixel.
        pixels = loaded.tokenizer.pixels
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


def _bert_result(found: Measured, loaded: Loaded, what: str, guesses: _Guesses) -> dict[str, Any]:
    """Masked loss and accuracies; a BERT gives no probability of a text, so no bits per byte."""
    means, pairs = found.means, round(found.counts["pairs"])
    result = {
        "text": what,
        "step": loaded.step,
        "masked_tokens": round(found.counts["tokens"]),
        "mlm_loss": means["mlm_loss"],
        "pseudo_perplexity": perplexity(means["mlm_loss"], 1),
        "masked_accuracy": means["masked_accuracy"],
        "unigram_accuracy": guesses.unigram_accuracy,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run", metavar="RUN", help="a run folder or one of its checkpoints; a path or s3://bucket/name"
    )
    parser.add_argument("--text", metavar="FILE", help="evaluate this text file (default: the corpus' split)")
    parser.add_argument(
        "--split", choices=("train", "val"), default="val", help="split of the corpus (default val)"
    )
    parser.add_argument(
        "--length", type=int, help="tokens of a window over --text (default: as in training; imported: 1024)"
    )
    parser.add_argument("--batch", type=int, default=16, help="windows at once (default 16)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: the run's own")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
