"""A model of ours to a folder of Hugging Face's: `python -m llm.export RUN OUT`."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from cluster import places
from cluster.errors import UserError, run_command
from cluster.places import Place
from llm.exchange.adapters import write_adapter
from llm.exchange.architectures import EMBEDDING, HEAD
from llm.exchange.exporting import Source, export_model, source_of
from llm.exchange.model_folder import check_new, is_model_folder, read_imported
from llm.exchange.task_heads import Task
from llm.model.lora import A, B, delta, parts_of
from llm.model.tasks import lora_from
from llm.tasks.chat import DEFAULT_TEMPLATE
from llm.train.checkpoints.load import CheckpointReader
from llm.train.trained import find_trained

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(argv: list[str]) -> int:
    """Entry of the command."""
    options = _parser().parse_args(argv)
    path, out = places.at(options.run), places.at(options.out)
    check_new(out)
    if options.adapter:
        return _export_adapter(path, out, options.json)
    source = source_of(read_imported(path)) if is_model_folder(path) else _of_run(path)
    with tqdm(desc="export", unit="tensor", disable=None) as bar:

        def progress(done: int, whole: int) -> None:
            bar.total = whole
            bar.update(done - bar.n)

        architecture = export_model(source, out, options.shard_size, _DTYPES.get(options.dtype), progress)
    files = sorted(file.name for file in out.iterdir())
    if options.json:
        print(json.dumps({"path": str(out), "architecture": architecture.name, "files": files}))
    else:
        print(f"{out}: {architecture.name}, {', '.join(files)}")
    return 0


def _of_run(path: Place) -> Source:
    """A run folder (its newest good checkpoint) or one of its checkpoints; adapters are merged."""
    found = find_trained(path, CheckpointReader.check_weights)
    settings, reader = found.settings, found.reader
    task = found.record.get("task")
    lora = lora_from(task)
    names = {name: info for info in reader.tensors for name in (info.name, *info.aliases)}
    if settings.tied and EMBEDDING in names:
        names.pop(HEAD, None)  # the same tensor
    shapes = {name: info.shape for name, info in names.items() if not name.endswith((A, B))}

    def read(name: str) -> torch.Tensor:
        weight, linear = reader.weight(names[name]), name.removesuffix(".weight")
        if lora is None or f"{linear}{A}" not in names:
            return weight
        a, b = (reader.weight(names[f"{linear}{end}"]) for end in (A, B))
        return weight + delta(linear, a, b, settings, lora)

    source = Source(settings, found.tokenizer(), shapes, read)
    if task is None:
        return source
    start = found.record.get("text_start")
    return replace(
        source,
        task=_task_of(task),
        text_start=None if start is None else tuple(start),
        chat_template=_template_of(found.record) if task["kind"] == "instruction" else None,
    )


def _template_of(record: dict[str, Any]) -> str:
    """The run's template, with what a text begins with, which transformers does not put before one."""
    template: str = record["finetune"]["task"]["chat_template"] or DEFAULT_TEMPLATE
    begins = record.get("text_start") != [] and "bos_token" not in template
    return f"{{{{ bos_token }}}}{template}" if begins else template


def _task_of(task: dict[str, Any]) -> Task:
    """What a run's record says of its task."""
    head = task.get("head") or {}
    return Task(task["kind"], head.get("outputs", 0), head.get("dropout", 0.0), tuple(task["labels"]))


def _export_adapter(path: Place, out: Place, as_json: bool) -> int:
    """The adapters of a run, for peft."""
    if is_model_folder(path):
        raise UserError(f"--adapter: {path} is an imported model, it has no adapters")
    found = find_trained(path, CheckpointReader.check_weights)
    task = found.record.get("task")
    lora = lora_from(task)
    if task is None or lora is None:
        raise UserError(
            f"--adapter: {path} was trained without adapters (finetune.lora.rank); leave the flag out"
        )
    settings, reader = found.settings, found.reader
    names = {info.name: info for info in reader.tensors}
    source = Source(
        settings, found.tokenizer(), {}, lambda name: reader.weight(names[name]), task=_task_of(task)
    )
    parts = {name: [part[1:] for part in own] for name, own in parts_of(settings, lora).items()}
    architecture = source.architecture()
    tensors = write_adapter(
        out, architecture, task["kind"], settings, names[EMBEDDING].shape[0], parts, lora.rank, lora.alpha,
        source.read,
    )  # fmt: skip
    files = sorted(file.name for file in out.iterdir())
    if as_json:
        print(json.dumps({"path": str(out), "architecture": architecture.name, "files": files}))
    else:
        print(f"{out}: {len(tensors)} tensors of adapters of a {architecture.name}, {', '.join(files)}")
    return 0


def _bytes(text: str) -> int:
    """'5GB' to bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", text.upper())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; give bytes, or a number with KB, MB or GB")
    return int(float(match[1]) * _UNITS[match[2]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.export", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder, one of its checkpoints, or an imported model; a path or s3://bucket/name",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="where the files are written: a new or an empty folder; a path or s3://bucket/name",
    )
    parser.add_argument(
        "--shard-size", type=_bytes, default="5GB", help="most bytes of one file of weights (default 5GB)"
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="type of the weights (default: as they are stored)")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write only the adapters of a run with finetune.lora, as peft reads them (default: merged)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
