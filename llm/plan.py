"""Plan a training before anything starts: `python -m llm.plan RECIPE [--section.key VALUE ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from cluster import places
from cluster.errors import UserError, run_command
from cluster.host_memory import memory_bytes
from cluster.recipe import Recipe, read_command
from cluster.settings import ClusterSettings
from data_jobs import open_corpus
from data_jobs.settings import CorpusSettings, most_entries
from data_jobs.tokens.tokenizer import load_tokenizer
from llm.data.batches import micro_steps
from llm.model.counts import describe
from llm.settings import ModelSettings, PretrainSettings
from llm.train.launch import check_length
from llm.train.memory import PARTS
from llm.train.planning import GIB, Layout, Room, fits, gib, largest_micro_batch, layouts, name_of
from llm.train.run_order import even_micro_batch
from llm.train.start import find_start, model_over

DESCRIPTION = """Say what a training needs before anything starts: the model's parameters and work, and the
memory of each worker by part, for every ZeRO stage and with offload, beside what this machine has."""

NOTE_CPU = (
    "buffers: with what libraries and the allocator hold; copy: of the state, to write a checkpoint from"
)
NOTE_GPU = "host: what is offloaded, and the copy of the state that a checkpoint is written from"


def main(argv: list[str]) -> int:
    recipe = read_command("python -m llm.plan", DESCRIPTION, argv, _options)
    settings = recipe.need(PretrainSettings)
    model, vocab_size, source = _model(recipe, settings)
    check_length(model, settings)
    gpu, rooms = _device(settings, recipe)
    counts = sorted({settings.workers.min, settings.workers.max})
    plans = [_plan(model, settings, vocab_size, workers, gpu, rooms) for workers in counts]
    found = {
        "recipe": str(recipe.path),
        "model": describe(model, vocab_size, settings.length),
        "vocabulary": {"size": vocab_size, "from": source},
        "device": "cuda" if gpu else "cpu",
        "memory": {"of": rooms.words, "device": rooms.device, "host": rooms.host},
        "compile": settings.compile,
        "plans": plans,
    }
    if recipe.options.json:
        sys.stdout.write(places.to_json(found).decode())
    else:
        print("\n".join(_lines(found, settings)))
    return 0


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", type=_gibibytes, metavar="GIB",
        help="memory of each worker where it will run, its GPU's or the host's (default: this machine's)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="all numbers, in bytes, as JSON on stdout")


def _gibibytes(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 2**20:
        raise argparse.ArgumentTypeError(f"must be GiB above 0, is {text!r}")
    return int(size * GIB)


def _model(recipe: Recipe, settings: PretrainSettings) -> tuple[ModelSettings, int, str]:
    """The model, the rows of its embedding, and where that number is from."""
    if settings.start_from is not None:
        start = find_start(settings.start_from, recipe.get(ClusterSettings).cache, check=False)
        given = recipe.get(ModelSettings).model_dump(exclude_unset=True) if "model" in recipe.sections else {}
        return model_over(start, given), start.vocab_size, f"the model at {settings.start_from}"
    model = recipe.need(ModelSettings)
    path = settings.corpus or recipe.out("corpus")
    if (places.at(path) / "manifest.json").is_file():
        corpus = open_corpus(path, "read", recipe.get(ClusterSettings).cache)
        return model, corpus.tokenizer.vocab_size, f"the corpus at {path}"
    if "corpus" not in recipe.sections:
        raise UserError(
            f"{recipe.path}: there is no corpus at {path}, and no section 'corpus' that says its vocabulary: "
            "prepare it first, or give --corpus.tokenizer.vocab_size"
        )
    corpus_settings = recipe.need(CorpusSettings)
    folder = corpus_settings.tokenizer.path
    if folder is not None:
        return model, load_tokenizer(places.at(folder)).vocab_size, f"the tokenizer at {folder}"
    where = "corpus.tokenizer, at most: the corpus is not prepared yet"
    return model, most_entries(corpus_settings), where


class _Memory:
    """What there is, as far as it is known without starting anything."""

    def __init__(self, device: int | None, host: int | None, words: str, shared: bool) -> None:
        self.device, self.host, self.words, self._shared = device, host, words, shared

    def room(self, workers: int) -> Room:
        """For each of so many workers. A machine's memory is shared by those that run on it."""
        share = lambda size: None if size is None else size // workers  # noqa: E731
        return Room(share(self.device) if self._shared else self.device, share(self.host))


def _device(settings: PretrainSettings, recipe: Recipe) -> tuple[bool, _Memory]:
    """Whether workers compute on GPUs, and the memory that is there for them."""
    import torch

    sees = settings.device != "cpu" and torch.cuda.is_available()
    gpu = sees or settings.device == "cuda"
    given: int | None = recipe.options.memory
    if given is not None:
        return gpu, _Memory(given, None, f"{gib(given)} for each worker, as given", shared=False)
    address = recipe.get(ClusterSettings).address or os.environ.get("RAY_ADDRESS")
    if address and settings.launch == "ray":
        return gpu, _Memory(
            None, None, f"that of the cluster at {address} is not asked for: give --memory", False
        )
    host = memory_bytes()
    if not gpu:
        return False, _Memory(host, None, f"{gib(host)} on this machine, shared by its workers", shared=True)
    if not sees:
        return True, _Memory(None, None, "no GPU is seen here: give --memory", shared=False)
    device = torch.cuda.get_device_properties(0).total_memory
    return True, _Memory(device, host, f"{gib(device)} on a GPU here, {gib(host)} on the host", shared=False)


def _plan(
    model: ModelSettings,
    settings: PretrainSettings,
    vocab_size: int,
    workers: int,
    gpu: bool,
    memory: _Memory,
) -> dict[str, Any]:
    room = memory.room(workers)
    rows = even_micro_batch(settings.batch, workers, settings.micro_batch)
    return {
        "workers": workers,
        "micro_batch": rows,
        "micro_steps": micro_steps(settings.batch, workers, rows),
        "room": room._asdict(),
        "layouts": [
            _layout(layout, name_of(settings), room)
            for layout in layouts(model, settings, vocab_size, workers, gpu)
        ],
        "largest_micro_batch": largest_micro_batch(model, settings, vocab_size, workers, gpu, room),
    }


def _layout(layout: Layout, chosen: str, room: Room) -> dict[str, Any]:
    need = layout.need
    return {
        "name": layout.name,
        "chosen": layout.name == chosen,
        "engine": layout.settings.engine,
        "zero_stage": layout.settings.zero_stage if layout.settings.engine == "deepspeed" else None,
        "offload": layout.settings.offload.model_dump(),
        "parts": need.peak.parts,
        "offloaded": need.peak.host,
        "bytes": need.device,
        "host_bytes": need.host,
        "checkpoint_copy": need.snapshot,
        "moment": need.peak.name,
        "moments": {moment.name: moment.parts | {"offloaded": moment.host} for moment in need.moments},
        "fits": fits(need, room),
    }


def _lines(found: dict[str, Any], settings: PretrainSettings) -> list[str]:
    model, vocabulary = found["model"], found["vocabulary"]
    lines = [
        f"model: {model['parameters']:,} parameters; {model['training_flops_per_token'] / 1e9:,.3f} GFLOP a "
        f"token in training, at length {model['length']}",
        f"vocabulary: {vocabulary['size']:,}, from {vocabulary['from']}",
        f"each worker on a {'GPU' if found['device'] == 'cuda' else 'CPU'}: {settings.precision}, "
        f"{settings.optimizer.kind}",
    ]
    if settings.compile != "none":
        lines.append("compile: the numbers are those of eager execution, compiled takes less")
    for plan in found["plans"]:
        lines += ["", *_plan_lines(plan, found["device"] == "cuda", name_of(settings))]
    return [*lines, "", f"memory: {found['memory']['of']}"]


def _plan_lines(plan: dict[str, Any], gpu: bool, chosen: str) -> list[str]:
    workers, rows = plan["workers"], plan["micro_batch"]
    head = ["", "GiB", *PARTS, "sum", "host" if gpu else "copy", "fits", "most at"]
    table = [head]
    for one in plan["layouts"]:
        parts = [f"{one['parts'][part] / GIB:.2f}" for part in PARTS]
        fit = {True: "yes", False: "NO", None: "?"}[one["fits"]]
        sums = [f"{one[key] / GIB:.2f}" for key in ("bytes", "host_bytes")]
        table.append(["*" if one["chosen"] else "", one["name"], *parts, *sums, fit, one["moment"]])
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    text = [
        "  ".join(
            c.rjust(w) if 2 <= i <= 8 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in table
    ]
    largest = plan["largest_micro_batch"]
    if largest is None:
        advice = "whether it fits is not known"
    elif largest:
        advice = f"the largest micro_batch that fits is {largest}"
    else:
        advice = "not even a micro_batch of 1 fits"
    title = (
        f"{workers} worker{'s' * (workers > 1)}, micro-batches of {rows} rows, {plan['micro_steps']} a step"
    )
    return [title, *text, NOTE_GPU if gpu else NOTE_CPU, f"{chosen}: {advice}"]


if __name__ == "__main__":
    run_command(main)
