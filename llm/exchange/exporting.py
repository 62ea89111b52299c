"""A model of ours to a folder of Hugging Face's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster.errors import RunError
from cluster.places import Place
from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.tokens.tokenizer_hf import HuggingFaceTokenizer
from llm.exchange.architectures import EMBEDDING, Architecture, architecture_for, differences
from llm.exchange.model_folder import Imported, new_folder
from llm.exchange.task_heads import Task, TaskArchitecture
from llm.exchange.tensor_files import Entry, write_shards
from llm.exchange.tokenizer_files import write_tokenizer
from llm.exchange.weights import Shape
from llm.settings import ModelSettings

Progress = Callable[[int, int], None]
"""Called with (tensors done, all)."""


@dataclass(frozen=True)
class Source:
    """A model to export: its tensors by name, read one at a time."""

    settings: ModelSettings
    tokenizer: Tokenizer
    shapes: Mapping[str, Shape]
    """Of every tensor; a tied output layer is not there."""
    read: Callable[[str], Tensor]
    came_as: str | None = None
    """The architecture that it was imported from."""
    dtype: torch.dtype = torch.float32
    aside: tuple[str, ...] = ()
    labels: dict[str, str] | None = field(default=None)
    suppressed: tuple[int, ...] = ()
    """Tokens that an imported model must never write."""
    task: Task | None = None
    """What it was fine-tuned for."""
    text_start: tuple[int, ...] | None = None
    """What a GPT's text began with there; None: an eos."""
    chat_template: str | None = None
    """How a conversation is written."""

    @property
    def has_head(self) -> bool:
        """Whether a task's head stands on the body, instead of an output layer."""
        return self.task is not None and self.task.outputs > 0

    def architecture(self) -> Architecture:
        """What it is called there. UserError where no architecture has the model's switches."""
        base = architecture_for(self.settings, self.came_as)
        return TaskArchitecture(base, self.task) if self.task is not None and self.has_head else base


def source_of(imported: Imported) -> Source:
    """An imported model folder."""
    record, entries = imported.record, imported.files.entries
    return Source(
        imported.settings,
        imported.tokenizer,
        {name: entry.shape for name, entry in entries.items()},
        imported.files.read,
        record["architecture"],
        entries[EMBEDDING].dtype,
        tuple(record["aside"]),
        record["labels"],
        tuple(record.get("suppressed", ())),
    )


def export_model(
    source: Source,
    out: Place,
    shard_size: int,
    dtype: torch.dtype | None = None,
    progress: Progress = lambda done, whole: None,
) -> Architecture:
    """Write config.json, weights, tokenizer and, for a GPT that writes, generation_config.json.

    UserError where no architecture has the model's switches. `dtype`: of the weights (default: as they are).
    """
    architecture = source.architecture()
    source = _as_trained(source)
    vocab_size = source.shapes[EMBEDDING][0]
    weights = architecture.weights(source.settings, vocab_size)
    wanted = {weight.ours: weight.shape for weight in weights}
    wanted |= {name: source.shapes[name] for name in source.aside}
    if lines := differences(dict(source.shapes), wanted):
        raise RunError(f"the weights are not those of the model's settings: {'; '.join(lines)}")
    dtype = dtype or source.dtype
    maker = {name: weight for weight in weights for name in (*weight.theirs, *weight.copies)}
    shapes = {name: shape for weight in weights for name, shape in weight.their_shapes().items()}
    shapes |= {name: weight.shape for weight in weights for name in weight.copies}
    shapes |= {name: source.shapes[name] for name in source.aside}
    bare = architecture.name == "BertModel"
    files = {name.removeprefix(architecture.prefix) if bare else name: name for name in shapes}
    entries = [Entry(name, shapes[own], dtype) for name, own in files.items()]
    last: dict[str, dict[str, Tensor]] = {}
    done = 0

    def read(name: str) -> Tensor:
        nonlocal done
        done += 1
        progress(done, len(entries))
        theirs = files[name]
        if theirs not in maker or theirs in maker[theirs].copies:
            return source.read(maker[theirs].ours if theirs in maker else theirs)
        ours = maker[theirs].ours
        if ours not in last:  # the parts of one map stand one after the other
            last.clear()
            last[ours] = maker[theirs].split(source.read(ours))
        return last[ours].pop(theirs)

    with new_folder(out, "config.json") as tmp:
        write_shards(tmp, entries, read, shard_size)
        kind = source.settings.kind
        context = source.settings.context
        write_tokenizer(source.tokenizer, tmp, kind, context, source.has_head, source.chat_template)
        config = _config(source, architecture, vocab_size, dtype)
        _write(tmp / "config.json", config)
        if kind == "gpt" and not source.has_head:
            names = ("bos_token_id", "eos_token_id", "pad_token_id")
            generation = {n: config[n] for n in names if config[n] is not None}
            if source.suppressed:
                generation["suppress_tokens"] = list(source.suppressed)
            _write(tmp / "generation_config.json", generation)
    return architecture


def _as_trained(source: Source) -> Source:
    """A GPT that was trained here begins a text with an eos and writes no other special: its files say so.

    One that goes out as it was imported is left as it is. One that was fine-tuned may have seen texts begin
    as an imported tokenizer begins them, and under a head end with an eos.
    """
    if source.came_as is not None or source.settings.kind != "gpt":
        return source
    tokenizer, rows = source.tokenizer, source.shapes[EMBEDDING][0]
    never = {*tokenizer.specials.values(), *range(tokenizer.vocab_size, rows)} - {tokenizer.eos_id}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        if source.has_head:
            start = (tokenizer.eos_id,) if source.text_start is None else source.text_start
            tokenizer = tokenizer.ending_with_eos(start)
        elif source.text_start is None:
            tokenizer = tokenizer.starting_with_eos()
    return replace(source, tokenizer=tokenizer, suppressed=tuple(sorted(never)))


def _config(
    source: Source, architecture: Architecture, vocab_size: int, dtype: torch.dtype
) -> dict[str, Any]:
    config = architecture.config(source.settings)
    config |= {"vocab_size": vocab_size, "dtype": str(dtype).removeprefix("torch.")}
    specials = source.tokenizer.specials
    config["pad_token_id"] = specials.get("pad")
    if source.settings.kind == "gpt":
        # A document of ours begins after the end of another, so that is what a text begins with.
        own = source.tokenizer.kind == "sentencepiece" or "bos" not in specials
        config["bos_token_id"] = specials["eos"] if own else specials["bos"]
        config["eos_token_id"] = specials["eos"]
    if source.aside:
        count = source.shapes[source.aside[0]][0]
        labels = source.labels or {str(n): f"LABEL_{n}" for n in range(count)}
        config["id2label"] = labels
        config["label2id"] = {label: int(number) for number, label in labels.items()}
    return config


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
