"""Files of examples, settings over them, and two small tokenizers: ours, and a BERT's of transformers."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from llm.settings import FinetuneSettings, ModelSettings
from llm.tasks.examples import ExampleSet, open_examples, prepare_examples
from tests.data_jobs.conftest import WORDS, make_texts

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
Record = dict[str, Any]


@functools.cache
def ours() -> Tokenizer:
    return train_tokenizer(make_texts(50), TokenizerSettings(vocab_size=400))


def write_bert(folder: Path) -> tuple[Tokenizer, Any]:
    """A BertTokenizerFast as a folder: opened by us, and by transformers."""
    from transformers import BertTokenizerFast

    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=BERT_SPECIALS, show_progress=False)
    backend.train_from_iterator(make_texts(100), trainer)
    backend.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    theirs = BertTokenizerFast.from_pretrained(folder)
    theirs.save_pretrained(folder)
    return load_tokenizer(folder), theirs


def write_lines(path: Path, records: list[Record]) -> Path:
    path.write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8"
    )
    return path


def shape(kind: str, context: int = 512) -> ModelSettings:
    sizes = {"kind": kind, "layers": 1, "width": 32, "heads": 2, "context": context}
    return ModelSettings.model_validate(sizes)


def settings_of(
    kind: str, train: Path | str, length: int = 32, task: Record | None = None, **data: Any
) -> FinetuneSettings:
    """Settings of a task over a file; without parts for validation and test where nothing is said of them."""
    return FinetuneSettings.model_validate(
        {
            "data": {"train": str(train), "val_fraction": 0.0, "test_fraction": 0.0, **data},
            "task": {"kind": kind, "stride": 4, **(task or {})},
            "length": length,
        }
    )


def make_set(
    kind: str,
    folder: Path,
    records: list[Record],
    model: str = "gpt",
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> ExampleSet:
    """Records to opened examples."""
    file = write_lines(folder / "train.jsonl", records)
    made = settings_of(kind, file, **settings)
    prepare_examples(made, tokenizer or ours(), shape(model), folder / "examples")
    return open_examples(folder / "examples")


def words(chance: random.Random, least: int = 3, most: int = 9) -> list[str]:
    return [chance.choice(WORDS) for _ in range(chance.randint(least, most))]


def records_of(kind: str, count: int, seed: int = 0) -> list[Record]:
    """Different examples of any kind, of which none is wrong."""
    chance = random.Random(seed)
    found: list[Record] = []
    for number in range(count):
        some = [f"n{number}", *words(chance)]
        text = " ".join(some)
        match kind:
            case "classification":
                found.append({"text": text, "label": "abc"[number % 3]})
            case "multi_label":
                found.append({"text": text, "label": [name for name in "abc" if chance.random() < 0.6]})
            case "regression":
                found.append({"text": text, "label": chance.gauss(0, 1)})
            case "token_classification":
                found.append({"words": some, "label": [chance.choice("OXY") for _ in some]})
            case "question_answering":
                word = chance.choice(some)
                gold = {"text": [word], "answer_start": [text.index(word)]}
                found.append({"text": text, "question": f"which {number}?", "answers": gold})
            case _:
                found.append({"prompt": text, "answer": " ".join(words(chance, 1, 4))})
    return found
