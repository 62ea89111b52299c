"""The parts of a task's examples: read from their files, checked, cut into train, val and test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.errors import UserError
from llm.finetune_settings import DataSettings, TaskKind
from llm.tasks.bad_records import BadRecords
from llm.tasks.example_fields import BadExample, Example, fields_of, read_example
from llm.tasks.labels import unknown_class
from llm.tasks.splitting import cards_of, split_cards
from llm.tasks.task_data import Bad, DataFile, Row, find_data, read_rows

PARTS = ("train", "val", "test")
Parts = dict[str, list[Example]]


def find_parts(data: DataSettings) -> dict[str, list[DataFile]]:
    """The files of each part that is given. UserError where there are none."""
    if data.train is None:
        raise UserError("finetune.data.train: says where the examples are, and is missing: a file or a glob")
    given = {part: getattr(data, part) for part in PARTS}
    return {
        part: find_data(path, f"finetune.data.{part}") for part, path in given.items() if path is not None
    }


def read_parts(
    files: dict[str, list[DataFile]], data: DataSettings, kind: TaskKind, bad: BadRecords
) -> tuple[Parts, int]:
    """The examples of each part, val and test cut from train where they have no files; records in all.

    UserError where a part is empty.
    """
    wanted = list(fields_of(data, kind).values())
    found: Parts = {}
    records = 0
    for part, some in files.items():
        found[part] = []
        for item in read_rows(some, wanted):
            records += 1
            example = _example(item, data, kind)
            if isinstance(example, Bad):
                bad.add(part, example)
            else:
                found[part].append(example)
    bad.check(records)
    for part, examples in found.items():
        if not examples:
            raise UserError(
                f"finetune.data.{part}: no examples in {', '.join(file.path for file in files[part])}"
            )
    _cut(found, data, kind)
    return {part: found[part] for part in PARTS if part in found}, records


def _example(item: Row | Bad, data: DataSettings, kind: TaskKind) -> Example | Bad:
    if isinstance(item, Bad):
        return item
    try:
        return read_example(item, data, kind)
    except BadExample as problem:
        return Bad(problem.reason, problem.detail, item.place)


def _cut(found: Parts, data: DataSettings, kind: TaskKind) -> None:
    """Take val and test out of train where they are wanted and have no files."""
    val = 0.0 if "val" in found else data.val_fraction
    test = 0.0 if "test" in found else data.test_fraction
    if not val and not test:
        return
    if val + test >= 1:
        raise UserError(
            f"finetune.data: val_fraction ({val:g}) and test_fraction ({test:g}) leave nothing to train on"
        )
    whole = found["train"]
    numbers = split_cards(cards_of(whole, kind), val, test, data.split_seed)
    for number, (part, share) in enumerate(zip(PARTS, (1, val, test))):
        if not share:
            continue
        found[part] = [example for example, at in zip(whole, numbers, strict=True) if at == number]
        if not found[part]:
            why = f", with {data.group} kept together" if data.group else ""
            raise UserError(
                f"finetune.data: of {len(whole):,} examples{why} none falls to {part} ({part}_fraction is "
                f"{share:g}): raise it, or give data.{part}"
                if number
                else f"finetune.data: of {len(whole):,} examples none is left to train on"
            )


def drop_unknown(parts: Parts, labels: Sequence[str], given: bool, bad: BadRecords) -> Parts:
    """The parts without examples of classes that are not known. `given`: by the settings, not by train."""
    where = "finetune.task.labels" if given else "those of the training part"
    kept: Parts = {}
    for part, examples in parts.items():
        kept[part] = []
        for example in examples:
            if problem := unknown_class(example, labels, where):
                bad.add(part, Bad("unknown_class", problem, example.place))
            else:
                kept[part].append(example)
    return kept


def notes_on_repeats(parts: Parts) -> list[str]:
    """Examples that stand in several parts, and equal ones that say different things, a line each."""
    notes = []
    known = {example.content for example in parts["train"]}
    for part in PARTS[1:]:
        again = sum(example.content in known for example in parts.get(part, ()))
        if again:
            notes.append(
                f"{again:,} of {len(parts[part]):,} examples of {part} stand in train, too: what is measured "
                "there was learned by heart"
            )
    if both := {e.content for e in parts.get("val", ())} & {e.content for e in parts.get("test", ())}:
        notes.append(f"{len(both):,} texts stand in val and in test")
    if torn := _contradicted(parts["train"]):
        notes.append(f"{torn:,} texts of train stand there again with another label")
    return notes


def _contradicted(examples: Iterable[Example]) -> int:
    labels: dict[int, set[object]] = {}
    for example in examples:
        if example.label is not None:
            labels.setdefault(example.content, set()).add(example.label)
    return sum(len(some) > 1 for some in labels.values())
