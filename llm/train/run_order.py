"""What a run is trained on: rule and order of the samples, and whether a checkpoint goes on."""

from __future__ import annotations

import contextlib
from typing import Any

from cluster.errors import RunError, UserError
from cluster.places import Place
from llm.data import ranges
from llm.data.batches import micro_steps
from llm.data.loader import SampleOrder
from llm.data.masking import vocabulary_of
from llm.data.order import Order, order_of_corpus
from llm.data.rules import Rule, rule_of
from llm.run_settings import RunSettings
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.save import committed_folders
from llm.train.group import Group
from llm.train.rewind import plan_of
from llm.train.run_folder import RunFolder


def make_rule(corpus: Any, model: ModelSettings, settings: PretrainSettings) -> Rule:
    """How a sample is made of the corpus: a GPT's by `packing`; a BERT's are pairs or single segments."""
    kind: Any = settings.packing
    if model.kind == "bert":
        kind = "pairs" if model.next_sentence else "segments"
    return rule_of(
        kind, settings.length, vocabulary=vocabulary_of(corpus.tokenizer), confine=settings.confine,
        masking=settings.masking, seed=settings.seed,
    )  # fmt: skip


def make_order(
    corpus: Any, settings: PretrainSettings, rule: Rule | None = None, plans: Place | None = None
) -> Order:
    """The order of the training samples: by the recipe's weights, else the corpus' own, else by size."""
    planned = plan_of(settings, ()).taken(settings.steps)
    weights = settings.weights or default_weights(corpus)
    return order_of_corpus(
        corpus, "train", weights, planned, settings.length, settings.seed, settings.lanes, rule=rule,
        plans=plans,
    )  # fmt: skip


def shared_order(
    corpus: Any, settings: PretrainSettings, rule: Rule, folder: RunFolder, group: Group
) -> Order:
    """The order on each worker; what it must read the whole corpus for is written once, by the first."""
    first = make_order(corpus, settings, rule, folder.plans) if group.rank == 0 else None
    group.agree(True)
    return first or make_order(corpus, settings, rule, folder.plans)


def check_goes_on(reader: CheckpointReader, order: SampleOrder, settings: RunSettings) -> None:
    """UserError where these settings cannot go on from a checkpoint."""
    if reader.state.step > settings.steps:
        raise UserError(
            f"{settings.section}.steps is {settings.steps}, the run stands at step {reader.state.step} "
            "already"
        )
    if reader.index["order"] != order.describe():
        raise UserError(
            f"{reader.folder}: was trained in another order of samples: "
            f"{_difference(reader.index['order'], order)}; going on would repeat some samples and miss "
            "others. Use the old settings, or --fresh"
        )
    check_skips(reader, settings)


def check_skips(reader: CheckpointReader, settings: RunSettings) -> None:
    """UserError where the ranges to be left out would change what was trained on before this checkpoint."""
    there = [(first, end) for first, end in reader.index["skips"]]
    now = plan_of(settings, reader.state.guard.left_out).skips
    differ = ranges.first_difference(there, now)
    if differ is None or differ >= reader.state.next_number:
        return
    older = []
    for folder in committed_folders(reader.folder.parent):
        with contextlib.suppress(RunError):
            state = CheckpointReader(folder).state
            if state.next_number <= differ:
                older.append((state.step, state.next_number, folder.name))
    step, number, name = max(older, default=(0, 0, ""))
    raise UserError(
        f"{settings.section}.skip_samples: leaves other samples out from sample {differ} on, and the "
        f"checkpoint of step {reader.state.step} stands at sample {reader.state.next_number} already. "
        + (
            f"It would work from the one of step {step} (sample {number}, {name}): move the later ones away "
            f"from {reader.folder.parent}. Or use"
            if older
            else "No checkpoint is left that lies before: use"
        )
        + f" a range that begins at {reader.state.next_number} or later, or --fresh"
    )


def _difference(saved: dict[str, Any], order: SampleOrder) -> str:
    """The parts in which two orders differ, old and new."""
    now = order.describe()
    return ", ".join(
        f"{key} was {saved.get(key)}, now {now[key]}" for key in now if saved.get(key) != now[key]
    )


def default_weights(corpus: Any) -> dict[str, float] | None:
    """The weights that the corpus' recipe gave its sources; None (by size) where it gave none.

    A source without one beside others that have one counts with its share of the tokens.
    """
    fixed, names = corpus.manifest["settings"], corpus.sources("train")
    given = {fixed[f"sources.{i}.name"]: fixed[f"sources.{i}.weight"] for i in range(_count_sources(fixed))}
    if not any(given.get(name) for name in names):
        return None
    tokens = {name: corpus.stream(name, "train").tokens for name in names}
    return {name: given.get(name) or tokens[name] / sum(tokens.values()) for name in names}


def _count_sources(fixed: dict[str, Any]) -> int:
    return sum(1 for key in fixed if key.startswith("sources.") and key.endswith(".name"))


def even_micro_batch(batch: int, world: int, most: int) -> int:
    """Rows of each forward: the share of a worker in as few equal parts as `most` allows."""
    share = -(-batch // world)
    return -(-share // micro_steps(batch, world, most))
