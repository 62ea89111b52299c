"""An imported model folder: `model.json`, `weights.safetensors` with our names, `tokenizer/`.

`model.json` is written last and vouches for the rest: format, settings, vocabulary, architecture, the
tokenizer's fingerprint, the digest of the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster import places
from cluster.cache import Cache
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath, Place, sync_folder
from cluster.sealed import unseal
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_hf import HuggingFaceTokenizer
from llm.exchange.tensor_files import TensorFiles, digest_of
from llm.settings import ModelSettings

FORMAT = "manta-model-1"
MODEL, WEIGHTS, TOKENIZER = "model.json", "weights.safetensors", "tokenizer"
SENDING = ".sending.json"  # names of the objects that are on their way to a store


@dataclass(frozen=True)
class Imported:
    """An imported model, opened: nothing of its weights is read yet."""

    path: Place
    record: dict[str, Any]
    """model.json."""
    settings: ModelSettings
    vocab_size: int
    """Rows of the embedding; the tokenizer may have fewer entries."""
    tokenizer: Tokenizer
    files: TensorFiles

    def fill(self, model: nn.Module) -> None:
        """Copy the weights into a model of these settings. What the record calls fresh stays as it is."""
        fresh = tuple(self.record["fresh"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # a tied one once
                if name in self.files.entries:
                    parameter.copy_(self.files.read(name))
                elif not (fresh and name.startswith(fresh)):
                    raise RunError(f"{self.path / WEIGHTS}: {name} is missing")

    def weights(self) -> dict[str, Tensor]:
        """All weights by our names, fp32; those of `aside` are left out."""
        aside = set(self.record["aside"])
        return {name: self.files.read(name).float() for name in self.files.entries if name not in aside}

    def run_settings(self) -> dict[str, Any]:
        """In the form of a run's settings, for those who measure and generate: its text is not cleaned."""
        return {
            "format": FORMAT,
            "model": self.settings.model_dump(mode="json"),
            "pretrain": {"length": self.settings.context, "precision": "fp32"},
            "text_start": self._start(),
            "suppressed": self.record.get("suppressed", []),
            "fresh": self.record["fresh"],
            "corpus": {
                "path": None,
                "vocab_size": self.vocab_size,
                "tokenizer": self.tokenizer.fingerprint,
                "clean": {"form": "none", "control_characters": "keep"},
            },
        }

    def _start(self) -> list[int]:
        """What a GPT's text begins with: ours after an eos, another's with what its tokenizer puts there.

        A bos that the tokenizer names and does not put there is not what transformers begins with either.
        """
        if isinstance(self.tokenizer, HuggingFaceTokenizer):
            return self.tokenizer.text_start if self.settings.kind == "gpt" else []
        return [self.tokenizer.eos_id]

    def aside(self) -> dict[str, Tensor]:
        """Tensors that our model has no place for: the classifier of a fine-tuned one."""
        return {name: self.files.read(name) for name in self.record["aside"]}


def is_model_folder(path: str | Place) -> bool:
    """Is this an imported model?"""
    return (places.at(path) / MODEL).is_file()


def read_imported(path: str | Place, cache: Cache | None = None) -> Imported:
    """Open an imported model. UserError where it is none, RunError where a file is damaged.

    `cache`: where the weights are copied to, if they are in an object store.
    """
    folder = places.at(path)
    try:
        record = unseal((folder / MODEL).read_bytes())
    except OSError as error:
        raise UserError(f"{folder / MODEL}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{folder / MODEL}: damaged: {error}") from None
    if record.get("format") != FORMAT:
        raise UserError(f"{folder / MODEL}: format {record.get('format')!r}, this version reads {FORMAT!r}")
    weights = folder / WEIGHTS
    try:
        file, cache = weights, cache or Cache()
        name = f"models/{record['weights']}.safetensors"
        if isinstance(file, ObjectPath):
            file = cache.copy_of(file, name, file.stat().st_size)
        digest = digest_of(file)
    except OSError as error:
        raise RunError(f"{weights}: cannot be read: {error.strerror}") from None
    if digest != record["weights"]:
        if file != weights:
            cache.discard(name)  # the next start copies it anew
        raise RunError(
            f"{weights}: digest {digest[:16]}, written with {record['weights'][:16]}: it was changed"
        )
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.fingerprint != record["tokenizer"]:
        raise RunError(
            f"{folder / TOKENIZER}: fingerprint {tokenizer.fingerprint}, {MODEL} says {record['tokenizer']}"
        )
    settings = ModelSettings.model_validate(record["model"])
    return Imported(folder, record, settings, record["vocab_size"], tokenizer, TensorFiles([file]))


def check_new(out: Place) -> None:
    """UserError where there is something: said before any work, too. A send cut short is nothing."""
    if isinstance(out, ObjectPath) and _is_half_sent(out):
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: there is something already, and nothing is written over; choose another place"
        )


@contextmanager
def new_folder(out: Place, last: str) -> Iterator[Path]:
    """A folder beside `out` that gets its name when all went well. UserError where `out` is not empty.

    For an object store it is one of this machine, sent when all went well, the file `last` at the end.
    """
    check_new(out)
    if isinstance(out, ObjectPath):
        with tempfile.TemporaryDirectory() as local:
            yield Path(local)
            if _is_half_sent(out):
                out.delete_all()
            names = [file.relative_to(local).as_posix() for file in Path(local).rglob("*")]
            places.write_json(out / SENDING, names)
            places.send_folder(Path(local), out, last)
            (out / SENDING).unlink(missing_ok=True)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        os.chmod(tmp, 0o755)
        yield tmp
        sync_folder(tmp)
        os.rename(tmp, out)  # an empty folder of this name is replaced
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    sync_folder(out.parent)


def _is_half_sent(out: ObjectPath) -> bool:
    """Whether all that is there came by a send that was cut short, or all but its end."""
    try:
        names = json.loads((out / SENDING).read_bytes())
    except FileNotFoundError:
        return False
    return set(out.sizes()) <= {*names, SENDING}
