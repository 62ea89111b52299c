"""Measure a trained model on its corpus or a text file: `python -m llm.evaluate RUN [--text FILE]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError, run_command
from data_jobs import open_corpus
from data_jobs.cleaning import clean_text
from llm.data.validation import Validation, validation_of_corpus, validation_of_tokens
from llm.loading import Loaded, load
from llm.train.group import Group
from llm.train.objective import Objective
from llm.train.validate import TextLoss, text_loss
from llm.train.worker import split_size


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    loaded = load(options.run)
    length = loaded.settings["pretrain"]["length"]
    if options.text:
        rows, tokens, size = _text_rows(loaded, Path(options.text), length, options.batch)
        what = options.text
    else:
        rows, tokens, size = _corpus_rows(loaded, options.split, length, options.batch)
        what = f"{loaded.settings['corpus']['path']} {options.split}"
    objective = Objective(loaded.model, options.precision or loaded.settings["pretrain"]["precision"]).eval()
    with torch.no_grad():
        found = text_loss(objective, rows, tokens, size, Group(0, 1, torch.device("cpu")))
    result = _result(found, loaded, what, length)
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{what}: loss {found.loss:.4f} nats a token, perplexity {found.perplexity:.2f}, "
            f"{found.bits_per_byte:.4f} bits per byte ({found.tokens:,} tokens, {size:,} bytes, step "
            f"{loaded.step}, non-overlapping windows of {length})"
        )
    return 0


def _text_rows(loaded: Loaded, file: Path, length: int, batch: int) -> tuple[Validation, int, int]:
    """A text file as one document, cleaned as the corpus was."""
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"--text {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {file}: not UTF-8 at byte {error.start}") from None
    clean = loaded.settings["corpus"]["clean"]
    text = clean_text(text, clean["form"], clean["control_characters"])
    if not text:
        raise UserError(f"--text {file}: empty")
    # The document's end stands in front: the rows are cyclic, so the first token is predicted from it alone,
    # and the end itself after the last token.
    ids = np.insert(np.asarray(loaded.tokenizer.encode(text)), 0, loaded.tokenizer.eos_id)
    return validation_of_tokens(ids, length, batch), len(ids), len(text.encode())


def _corpus_rows(loaded: Loaded, split: str, length: int, batch: int) -> tuple[Validation, int, int]:
    corpus = open_corpus(loaded.settings["corpus"]["path"])
    if corpus.corpus_id != loaded.settings["corpus"]["corpus_id"]:
        raise UserError(f"{corpus.path}: not the corpus that the run was trained on; give --text FILE")
    tokens, size = split_size(corpus, split)
    return validation_of_corpus(corpus, split, length, batch), tokens, size


def _result(found: TextLoss, loaded: Loaded, what: str, length: int) -> dict[str, Any]:
    return {
        "text": what,
        "step": loaded.step,
        "tokens": found.tokens,
        "bytes": round(found.bytes),
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "windows": f"non-overlapping, {length} tokens",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="a run folder or one of its checkpoints")
    parser.add_argument("--text", metavar="FILE", help="evaluate this text file (default: the corpus' split)")
    parser.add_argument(
        "--split", choices=("train", "val"), default="val", help="split of the corpus (default val)"
    )
    parser.add_argument("--batch", type=int, default=16, help="windows at once (default 16)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: the run's own")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
