"""A folder of Hugging Face's to an imported model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from cluster.errors import UserError
from cluster.places import Place, write_bytes
from cluster.sealed import seal
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm.exchange.architectures import Architecture, architecture_of, differences
from llm.exchange.fields import Config
from llm.exchange.model_folder import FORMAT, MODEL, TOKENIZER, WEIGHTS, new_folder
from llm.exchange.tensor_files import Entry, TensorFiles, open_folder, write_file
from llm.exchange.weights import Weight
from llm.settings import ModelSettings

Progress = Callable[[int, int], None]
"""Called with (tensors done, all)."""


def import_model(folder: Path, out: Place, progress: Progress = lambda done, whole: None) -> dict[str, Any]:
    """Read config.json, weights and tokenizer of `folder`, write `out`; returns its model.json.

    The tensors keep their type. UserError naming the file, field or tensor that cannot be imported.
    """
    config = _config(folder)
    files = open_folder(folder)
    try:
        architecture = architecture_of(config, files.entries.keys())
        settings = _settings(architecture, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    tokenizer = load_tokenizer(folder)
    names = architecture.canonical(files.entries)
    vocab_size = _vocab_size(folder, architecture, names, files, tokenizer)
    weights = architecture.weights(settings, vocab_size)
    _check_tensors(folder, architecture, settings, names, files, weights)
    sources = {weight.ours: weight for weight in weights}
    entries = [
        Entry(weight.ours, weight.shape, files.entries[names[weight.theirs[0]]].dtype) for weight in weights
    ]
    entries += [files.entries[names[name]] for name in architecture.aside()]
    done = 0

    def read(name: str) -> Tensor:
        nonlocal done
        done += 1
        progress(done, len(entries))
        if name not in sources:
            return files.read(names[name])
        return sources[name].join([files.read(names[theirs]) for theirs in sources[name].theirs])

    with new_folder(out, MODEL) as tmp:
        digest = write_file(tmp / WEIGHTS, entries, read)
        tokenizer.save(tmp / TOKENIZER)
        record = {
            "format": FORMAT,
            "model": settings.model_dump(mode="json"),
            "vocab_size": vocab_size,
            "architecture": architecture.name,
            "tokenizer": tokenizer.fingerprint,
            "weights": digest,
            "fresh": architecture.fresh(settings),
            "suppressed": _suppressed(folder),
            "aside": list(architecture.aside()),
            "labels": config.get("id2label") if architecture.aside() else None,
        }
        write_bytes(tmp / MODEL, seal(record))
    return record


def _config(folder: Path) -> Config:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: missing: this is no model folder of Hugging Face's")
    return _object_of(path)


def _object_of(path: Path) -> Config:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value


def _suppressed(folder: Path) -> list[int]:
    """The tokens that the model must never write, as its generation_config.json says."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    found = _object_of(path).get("suppress_tokens") or []
    if not (isinstance(found, list) and all(type(token) is int for token in found)):
        raise UserError(f"{path}: suppress_tokens is {found!r}, it must be a list of token ids")
    return found


def _settings(architecture: Architecture, config: Config) -> ModelSettings:
    if config.get("quantization_config"):
        raise UserError("config.json: quantization_config: quantized weights cannot be imported")
    try:
        return ModelSettings.model_validate(architecture.settings(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "model"
        raise UserError(f"config.json: gives a model that we do not have: {where}: {first['msg']}") from None
    except (TypeError, AttributeError, ZeroDivisionError) as error:  # text for a number, 0 heads
        raise UserError(f"config.json: a field has a value of another kind: {error}") from None


def _vocab_size(
    folder: Path,
    architecture: Architecture,
    names: dict[str, str],
    files: TensorFiles,
    tokenizer: Tokenizer,
) -> int:
    """Rows of the embedding. More than entries of the tokenizer are padding, and kept; fewer are refused."""
    theirs = architecture.embedding
    if theirs not in names:
        raise UserError(f"{folder}: {theirs} is missing")
    rows = files.entries[names[theirs]].shape[0]
    if rows < tokenizer.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} entries, {theirs} {rows:,} rows: they do "
            "not belong together"
        )
    return rows


def _check_tensors(
    folder: Path,
    architecture: Architecture,
    settings: ModelSettings,
    names: dict[str, str],
    files: TensorFiles,
    weights: list[Weight],
) -> None:
    """UserError where a tensor is missing, left over, of another shape, or no number with a fraction."""
    copies = architecture.copies(settings)
    unused = {*copies, *architecture.aside(), *(name for weight in weights for name in weight.copies)}
    passed_over = re.compile(architecture.passed_over)
    found = {
        name: files.entries[file].shape
        for name, file in names.items()
        if name not in unused and not passed_over.fullmatch(name)
    }
    wanted = {name: shape for weight in weights for name, shape in weight.their_shapes().items()}
    lines = differences(found, wanted)
    lines += [f"missing: {name}" for name in architecture.aside() if name not in names]
    whole = [
        name for name in wanted if name in names and not files.entries[names[name]].dtype.is_floating_point
    ]
    lines += [f"{name} holds whole numbers" for name in whole[:4]]
    if lines:
        raise UserError(f"{folder}: its tensors are not those of {architecture.name}: {'; '.join(lines)}")
    for copy, original in copies.items():
        if copy in names and not files.read(names[copy]).equal(files.read(names[original])):
            raise UserError(
                f"{folder}: {copy} differs from {original}, and config.json says that they are one "
                "(tie_word_embeddings)"
            )
