"""The model that a training starts from: found once, compared in full, refused where it was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import RunError, UserError
from cluster.places import write_bytes
from cluster.sealed import seal
from data_jobs import open_corpus
from llm.exchange.model_folder import FORMAT
from llm.exchange.tensor_files import digest_of
from llm.model import make_model
from llm.settings import ModelSettings
from llm.train.start import check_start, find_again, find_start, model_over
from tests.llm.folders import make_corpus

SHAPE = ModelSettings(layers=1, width=16, heads=2, context=16, dropout=0.1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_corpus(make_corpus(tmp_path_factory.mktemp("start"))).tokenizer


def write_model(folder: Path, tokenizer: Any, seed: int) -> Path:
    """An imported model folder with fresh weights of a seed."""
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    weights = dict(make_model(SHAPE, tokenizer.vocab_size, seed).named_parameters())
    save_file({name: value.detach() for name, value in weights.items()}, folder / "weights.safetensors")
    record = {
        "format": FORMAT, "model": SHAPE.model_dump(mode="json"), "vocab_size": tokenizer.vocab_size,
        "architecture": "none", "tokenizer": tokenizer.fingerprint, "fresh": [], "aside": [],
        "weights": digest_of(folder / "weights.safetensors"),
    }  # fmt: skip
    write_bytes(folder / "model.json", seal(record))
    return folder


def test_weights_are_those_of_the_start(tmp_path: Path, tokenizer: Any) -> None:
    start = find_start(str(write_model(tmp_path / "m", tokenizer, seed=3)))
    model = make_model(SHAPE, tokenizer.vocab_size, seed=9)
    find_again(start.record).fill(model)
    for name, value in make_model(SHAPE, tokenizer.vocab_size, seed=3).named_parameters():
        assert torch.equal(model.get_parameter(name), value)


def test_a_start_that_was_changed_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    record = find_start(str(write_model(tmp_path / "m", tokenizer, seed=3))).record
    write_model(tmp_path / "m", tokenizer, seed=4)
    with pytest.raises(RunError, match="was changed since this run began"):
        find_again(record).fill(make_model(SHAPE, tokenizer.vocab_size))


def test_equal_models_are_equal_however_they_are_written(tmp_path: Path, tokenizer: Any) -> None:
    start = find_start(str(write_model(tmp_path / "m", tokenizer, seed=3)))
    written_out = model_over(start, {"hidden": 64, "kv_heads": 2, "norm_eps": 1e-6, "dropout": 0.0})
    assert written_out.dropout == 0 and written_out.layers == 1
    check_start(start, "m", written_out, tokenizer.fingerprint)
    with pytest.raises(UserError, match=r"model\.layers is 2, there 1"):
        check_start(start, "m", model_over(start, {"layers": 2}), tokenizer.fingerprint)
    with pytest.raises(UserError, match=r"corpus\.tokenizer\.path"):
        check_start(start, "m", SHAPE, "another")


def test_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such folder"):
        find_start(str(tmp_path / "nothing"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="format 'other'"):
        find_start(str(tmp_path / "run"))
