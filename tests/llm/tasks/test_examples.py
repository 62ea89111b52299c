"""Examples on disk: parts, record, reuse, order, micro-batches that no number of workers changes."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import places
from cluster.errors import RunError, UserError
from llm.data.batches import worker_slice
from llm.tasks.columns_file import Ragged, Texts, digest_of_columns, read_columns, write_columns
from llm.tasks.example_order import order_of_examples
from llm.tasks.example_rows import Examples
from llm.tasks.examples import open_examples, prepare_examples
from tests.llm.tasks.task_files import make_set, ours, records_of, settings_of, shape, write_lines

KINDS = (
    "classification", "multi_label", "regression", "token_classification", "question_answering",
    "instruction",
)  # fmt: skip
CASES = [
    (kind, model) for kind in KINDS for model in ("gpt", "bert") if (kind, model) != ("instruction", "bert")
]


def train_of(kind: str, folder: Path, model: str = "gpt", count: int = 40, **settings: Any) -> Examples:
    part = make_set(kind, folder, records_of(kind, count), model, length=128, **settings).part("train")
    assert part is not None
    return part


def all_rows(part: Examples) -> np.ndarray:
    return np.arange(part.rows)


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_a_micro_batch_of_each_kind(tmp_path: Path, kind: str, model: str) -> None:
    part = train_of(kind, tmp_path, model)
    chosen = np.array([3, 0, 2])
    micro, _ = part.make(chosen, np.array([7, 8, 9]), 4)
    rows, width = micro.inputs.shape
    assert rows == 4 and width % 8 == 0 and width - 8 < max(part.tokens[chosen]) <= width
    assert micro.numbers.tolist() == [7, 8, 9, -1]
    assert micro.documents is not None and not micro.weights[3].any()
    is_text = micro.documents != micro.documents[3, 0] if kind != "instruction" else None
    if is_text is not None:
        assert is_text.sum(1).tolist() == [*part.tokens[chosen].tolist(), 0]
    assert (micro.segments is None) == (model == "gpt")
    assert (micro.positions is not None) == (model == "gpt" and kind in KINDS[:3])
    if micro.positions is not None:
        assert micro.positions[:, 0].tolist() == [*(part.tokens[chosen] - 1).tolist(), 0]
    targets = {
        "multi_label": 3, "question_answering": 2, "token_classification": width, "instruction": width
    }.get(kind, 1)  # fmt: skip
    assert micro.targets.shape == micro.weights.shape == (4, targets)
    assert (micro.values is not None) == (kind == "regression")
    for array in (micro.inputs, micro.targets, micro.weights, micro.documents):
        assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_comes_back(tmp_path: Path, kind: str) -> None:
    """From the file to micro-batches and references, in the order of the file."""
    records = records_of(kind, 30)
    part = make_set(kind, tmp_path, records, length=128, task={"packing": False}).part("train")
    assert part is not None and part.examples == part.rows == 30
    references = part.references()
    assert references.lines.tolist() == list(range(1, 31))
    micro, _ = part.make(all_rows(part), all_rows(part), 30)
    mine = ours()
    for number, record in enumerate(records):
        told = mine.decode(micro.inputs[number])
        match kind:
            case "classification":
                assert told == record["text"]
                assert references.classes is not None
                assert part.labels[micro.targets[number, 0]] == record["label"]
                assert part.labels[references.classes[number]] == record["label"]
            case "multi_label":
                found = [name for name, yes in zip(part.labels, micro.targets[number], strict=True) if yes]
                assert found == sorted(record["label"])
                assert references.label_sets is not None
                assert references.label_sets[number].tolist() == micro.targets[number].tolist()
            case "regression":
                assert micro.values is not None and references.values is not None
                assert micro.values[number, 0] == np.float32(record["label"])
                assert references.values[number] == record["label"]
            case "token_classification":
                tags = micro.targets[number][micro.weights[number] > 0]
                assert [part.labels[tag] for tag in tags] == record["label"]
                assert references.tags is not None and references.words is not None
                assert references.tags[number].tolist() == tags.tolist()
                assert references.words[number] == len(record["words"])
            case "question_answering":
                assert references.places is not None and references.contexts is not None
                context = references.contexts[number]
                assert context == record["text"]
                first, last = micro.targets[number].tolist()
                allowed = references.places[number].allowed(micro.inputs.shape[1])
                assert allowed[first] and allowed[last]
                assert references.places[number].text(context, first, last) == record["answers"]["text"][0]
                assert references.answers is not None
                assert references.answers[number] == tuple(record["answers"]["text"])
            case _:
                assert told == f"User: {record['prompt']}\nAssistant: {record['answer']}"
                weighed = micro.targets[number][micro.weights[number] > 0]
                assert mine.decode(weighed) == f" {record['answer']}" and weighed[-1] == mine.eos_id
                assert references.prompts is not None and references.answers is not None
                assert mine.decode(references.prompts[number]) == f"User: {record['prompt']}\nAssistant:"
                assert references.answers[number] == (record["answer"],)


def test_packed_rows_see_themselves_alone(tmp_path: Path) -> None:
    part = train_of("instruction", tmp_path)
    (tmp_path / "alone").mkdir()
    alone = train_of("instruction", tmp_path / "alone", task={"packing": False})
    assert part.rows < alone.rows == 40 == part.examples
    single, _ = alone.make(all_rows(alone), all_rows(alone), alone.rows)
    packed, _ = part.make(all_rows(part), all_rows(part), part.rows)
    assert packed.documents is not None
    members = [part.members_of(row) for row in range(part.rows)]
    assert sorted(example for some in members for example in some) == list(range(40))
    for row, some in enumerate(members):
        for document, example in enumerate(some):
            here = packed.documents[row] == document
            size = int(alone.tokens[example])
            assert here.sum() == size
            for name in ("inputs", "targets", "weights"):
                assert (
                    getattr(packed, name)[row][here].tolist()
                    == getattr(single, name)[example][:size].tolist()
                )
        padding = packed.documents[row] == len(some)
        assert not packed.weights[row][padding].any()
    assert packed.weights.sum() == single.weights.sum()


@pytest.mark.parametrize("kind", ["classification", "instruction"])
def test_each_row_once_an_epoch_for_any_number_of_workers(tmp_path: Path, kind: str) -> None:
    part = train_of(kind, tmp_path, count=50)
    order = order_of_examples(part, seed=3)
    rows = part.rows
    picks = order.picks(np.arange(3 * rows))
    for epoch in range(3):
        assert sorted(picks.at[epoch * rows : (epoch + 1) * rows].tolist()) == list(range(rows))
    assert picks.epoch.tolist() == sorted(picks.epoch.tolist())
    assert picks.at[:rows].tolist() != picks.at[rows : 2 * rows].tolist()
    assert order.picks(np.array([rows + 2])).at[0] == picks.at[rows + 2]
    assert order_of_examples(part, 4).picks(np.arange(rows)).at.tolist() != picks.at[:rows].tolist()
    numbers = np.arange(5, 5 + 12)
    digests, tokens = set(), set()
    for world in (1, 2, 3, 5):
        digest, weight = 0, 0.0
        for rank in range(world):
            mine = numbers[worker_slice(12, rank, world)]
            for at in range(0, len(mine), 3):
                some = order.picks(mine[at : at + 3])
                micro, seen = part.make(some.at, some.numbers, 3)
                digest, weight = digest + seen, weight + float(micro.weights.sum())
        digests.add(digest % 2**64)
        tokens.add(weight)
    assert len(digests) == len(tokens) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_says_what_a_row_holds(tmp_path: Path, kind: str) -> None:
    part = train_of(kind, tmp_path)
    one, again = (part.make(np.array([at]), np.array([5]), 2)[1] for at in (1, 1))
    assert one == again == part.make(np.array([1]), np.array([5]), 7)[1]
    assert (
        one != part.make(np.array([2]), np.array([5]), 2)[1] != part.make(np.array([1]), np.array([6]), 2)[1]
    )


def test_nothing_of_a_worker_without_rows(tmp_path: Path) -> None:
    part = train_of("classification", tmp_path)
    none = np.zeros(0, np.int64)
    micro, digest = part.make(none, none, 2)
    assert digest == 0 and micro.inputs.shape == (2, 8) and not micro.weights.any()


def test_classes_weigh_in_training_alone(tmp_path: Path) -> None:
    records = [{"text": f"t {n}", "label": "rare" if n % 10 == 0 else "usual"} for n in range(100)]
    found = make_set(
        "classification", tmp_path, records, task={"class_weights": "balanced"}, val_fraction=0.2
    )
    train, val = found.part("train"), found.part("val")
    assert train is not None and val is not None
    weights = found.record["class_weights"]
    assert np.allclose(weights, [80 / (2 * 8), 80 / (2 * 72)])
    micro, _ = train.make(all_rows(train), all_rows(train), train.rows)
    assert np.allclose(micro.weights[:, 0], np.array(weights, np.float32)[micro.targets[:, 0]])
    assert micro.weights.sum() == pytest.approx(80, rel=1e-6)
    for part in (val, found.part("train", weighted=False)):
        assert part is not None
        micro, _ = part.make(all_rows(part), all_rows(part), part.rows)
        assert (micro.weights == 1).all()


def test_windows_are_rows_of_one_example(tmp_path: Path) -> None:
    records = [{"text": " ".join(["sea"] * (3 if n % 2 else 90)), "label": "ab"[n % 2]} for n in range(6)]
    records = [record | {"text": f"{n} {record['text']}"} for n, record in enumerate(records)]
    found = make_set("classification", tmp_path, records, "bert", task={"too_long": "window"})
    part = found.part("train")
    assert part is not None
    said = found.record["parts"]["train"]
    assert said["examples"] == 6 and said["rows"] == part.rows > 6
    owners = Counter(part.example_of(row) for row in range(part.rows))
    assert set(owners) == set(range(6)) and said["windows"] == sum(n for n in owners.values() if n > 1)
    references = part.references()
    assert references.example_of.tolist() == [part.example_of(row) for row in range(part.rows)]
    micro, _ = part.make(all_rows(part), all_rows(part), part.rows)
    assert references.classes is not None
    assert micro.targets[:, 0].tolist() == references.classes[references.example_of].tolist()


def test_parts_are_cut_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {"text": f"text {n}", "label": "yes" if n % 8 == 0 else "no", "who": n // 4} for n in range(200)
    ]
    found = make_set("classification", tmp_path, records, val_fraction=0.2, test_fraction=0.1, group="who")
    assert found.parts == ["train", "val", "test"]
    lines = {}
    for name in found.parts:
        part = found.part(name)
        assert part is not None
        lines[name] = set(part.references().lines.tolist())
        assert found.record["parts"][name]["class_counts"].keys() == {"no", "yes"}
    assert set().union(*lines.values()) == set(range(1, 201)) and sum(map(len, lines.values())) == 200
    groups = {name: {(line - 1) // 4 for line in some} for name, some in lines.items()}
    assert not groups["train"] & groups["val"] and not groups["train"] & groups["test"]
    assert abs(len(lines["val"]) - 40) <= 4 and abs(len(lines["test"]) - 20) <= 4
    assert "classes are unbalanced" in capsys.readouterr().err
    assert found.part("other") is None


def test_the_split_does_not_hang_on_order_or_names(tmp_path: Path) -> None:
    records = records_of("classification", 90)
    parts = []
    for name, some in (("a", records), ("b", random.Random(0).sample(records, 90))):
        (tmp_path / name).mkdir()
        found = make_set("classification", tmp_path / name, some, val_fraction=0.3)
        val = found.part("val")
        assert val is not None
        parts.append({some[line - 1]["text"] for line in val.references().lines.tolist()})
    assert parts[0] == parts[1] and len(parts[0]) == 27


def test_it_is_made_once(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "train.jsonl", records_of("classification", 20))
    out = tmp_path / "out"
    first = prepare_examples(settings_of("classification", file), ours(), shape("gpt"), out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare_examples(settings_of("classification", file), ours(), shape("gpt"), out) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(file.read_bytes())
    others = settings_of("classification", moved, task={"dropout": 0.3, "loss": "hinge"})
    assert prepare_examples(others, ours(), shape("gpt"), out) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    elsewhere = prepare_examples(others, ours(), shape("gpt"), tmp_path / "anew")
    assert elsewhere == first
    write_lines(moved, records_of("classification", 21))
    second = prepare_examples(others, ours(), shape("gpt"), out)
    assert second["digest"] != first["digest"] and second["parts"]["train"]["examples"] == 21
    assert open_examples(out).record == second
    lax = settings_of("classification", file, max_bad_fraction=0.1)
    assert prepare_examples(lax, ours(), shape("gpt"), tmp_path / "lax")["digest"] == first["digest"]
    longer = settings_of("classification", moved, length=40)
    assert prepare_examples(longer, ours(), shape("gpt"), out)["digest"] != second["digest"]


def test_damage_is_seen(tmp_path: Path) -> None:
    found = make_set("classification", tmp_path, records_of("classification", 20))
    path = found.folder / "train.arrow"
    assert isinstance(path, Path)
    data = bytearray(path.read_bytes())
    part = found.part("train")
    assert part is not None
    ids = part.make(np.array([0]), np.array([0]), 1)[0].inputs[0, :4].astype(np.uint32).tobytes()
    data[bytes(data).index(ids)] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RunError, match="is not what examples.json says"):
        open_examples(found.folder).part("train")
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(RunError, match="cannot be read"):
        open_examples(found.folder).part("train")
    with pytest.raises(UserError, match="no examples of this version"):
        open_examples(tmp_path / "nowhere")


def test_columns_come_back(tmp_path: Path) -> None:
    columns = {
        "n": np.array([3, -1, 2], np.int32),
        "x": np.array([0.5, 1e300, -0.0]),
        "lists": Ragged.of([[1, 2], [], [7]], np.uint32),
        "texts": Texts.of(["海 é", "", "z"]),
    }
    write_columns(tmp_path / "a.arrow", columns)
    found = read_columns(tmp_path / "a.arrow")
    assert digest_of_columns(found) == digest_of_columns(columns)
    lists, texts = found["lists"], found["texts"]
    assert isinstance(lists, Ragged) and [lists[n].tolist() for n in range(3)] == [[1, 2], [], [7]]
    assert isinstance(texts, Texts) and [texts[n] for n in range(3)] == ["海 é", "", "z"]
    assert digest_of_columns(columns | {"n": np.array([3, -1, 3], np.int32)}) != digest_of_columns(columns)
    none = {"lists": Ragged.of([], np.uint32), "texts": Texts.of([]), "n": np.zeros(0, np.int32)}
    write_columns(tmp_path / "b.arrow", none)
    assert digest_of_columns(read_columns(tmp_path / "b.arrow")) == digest_of_columns(none)


GOOD = [{"text": f"good {n}", "label": "ab"[n % 2]} for n in range(20)]


def refused(
    tmp_path: Path, records: list[dict[str, Any]], says: str, kind: str = "classification", **data: Any
) -> str:
    model = data.pop("model", "gpt")
    task = data.pop("task", None)
    length = data.pop("length", 32)
    file = write_lines(tmp_path / "train.jsonl", records)
    with pytest.raises(UserError, match=says) as caught:
        prepare_examples(
            settings_of(kind, file, length, task, **data), ours(), shape(model, 64), tmp_path / "out"
        )
    assert not (tmp_path / "out" / "examples.json").exists()
    return str(caught.value)


def test_wrong_records_are_told_with_their_lines(tmp_path: Path) -> None:
    bad = [{"text": "x", "lable": "a"}, {"text": "", "label": "a"}]
    said = refused(tmp_path, [*GOOD, *bad], r"2 of 22 records give no example, and max_bad_fraction \(0\)")
    assert f"{tmp_path}/train.jsonl:21: no field 'label'" in said and "did you mean 'lable'?" in said
    assert "train.jsonl:22: field 'text' is empty (empty_text)" in said
    many = [{"text": "x", "label": 0.5}] * 9
    said = refused(tmp_path, [*GOOD, *many], "9 of 29 records", max_bad_fraction=0.3)
    assert "... and 6 more (label_type)" in said


def test_wrong_records_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"text": "x", "lable": "a"}, {"text": "", "label": "a"}, {"text": "", "label": "b"}]
    found = make_set("classification", tmp_path, [*bad, *GOOD], max_bad_fraction=0.2)
    said = found.record["parts"]["train"]
    assert said["examples"] == 20 and said["left_out"] == {"empty_text": 2, "missing_field": 1}
    assert "train: left out 2 records: empty_text" in capsys.readouterr().err
    part = found.part("train")
    assert part is not None and part.references().lines.tolist() == list(range(4, 24))


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    val = write_lines(tmp_path / "val.jsonl", [{"text": "v1", "label": "a"}, {"text": "v2", "label": "aa"}])
    said = refused(tmp_path, GOOD, "1 of 22 records", val=str(val))
    assert "val.jsonl:2: class 'aa' is none of those of the training part" in said
    refused(tmp_path, GOOD, "class 'b' is none of finetune.task.labels", task={"labels": ["a", "c"]})


@pytest.mark.parametrize(
    ("records", "says", "changes"),
    [
        ([], "finetune.data.train: no examples in", {}),
        ([{"text": f"t{n}", "label": "a"} for n in range(9)], "only the class 'a'", {}),
        (GOOD[:4], r"of 4 examples none falls to val \(val_fraction is 0.1\)", {"val_fraction": 0.1}),
        (GOOD, "leave nothing to train on", {"val_fraction": 0.6, "test_fraction": 0.4}),
        (GOOD, "with who kept together none falls to val", {"val_fraction": 0.2, "group": "who"}),
        (GOOD, "the model is a bert: it writes no answers", {"kind": "instruction", "model": "bert"}),
        (GOOD, "finetune.length is 65, and the model sees 64", {"length": 65}),
        ([*GOOD, {"text": "s " * 90, "label": "a"}], "room for 30: raise", {"task": {"too_long": "fail"}}),
        (GOOD, "no such file", {"test": "/nowhere/test.jsonl"}),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, records: list[dict[str, Any]], says: str, changes: dict[str, Any]
) -> None:
    refused(tmp_path, [record | {"who": "all"} for record in records], says, **changes)


def test_no_data_at_all(tmp_path: Path) -> None:
    settings = settings_of("classification", "x").model_copy(
        update={"data": type(settings_of("classification", "x").data)()}
    )
    with pytest.raises(UserError, match="finetune.data.train: says where the examples are"):
        prepare_examples(settings, ours(), shape("gpt"), tmp_path / "out")


def test_examples_that_were_learned_are_told(tmp_path: Path) -> None:
    test = write_lines(tmp_path / "test.jsonl", [*GOOD[:2], {"text": "other", "label": "a"}])
    found = make_set("classification", tmp_path, [*GOOD, GOOD[0] | {"label": "b"}], test=str(test))
    assert (
        "2 of 3 examples of test stand in train, too: what is measured there was learned by heart"
        in found.record["notes"]
    )
    assert "1 texts of train stand there again with another label" in found.record["notes"]


def test_a_record_is_json(tmp_path: Path) -> None:
    found = make_set("question_answering", tmp_path, records_of("question_answering", 12), length=128)
    record = json.loads(json.dumps(found.record))
    assert record == found.record and record["format"] == "manta-examples-1"
    assert record["class_weights"] is None and record["labels"] == []
    train = record["parts"]["train"]
    part = found.part("train")
    assert part is not None and train["tokens"] == int(part.tokens.sum()) and train["truncated"] == 0


def test_files_and_examples_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    local = make_set("question_answering", tmp_path, records_of("question_answering", 20), val_fraction=0.2)
    raw = places.at(bucket) / "raw"
    places.write_bytes(raw / "train.jsonl", (tmp_path / "train.jsonl").read_bytes())
    settings = settings_of("question_answering", f"{bucket}/raw/*.jsonl", val_fraction=0.2)
    out = places.at(bucket) / "examples"
    assert prepare_examples(settings, ours(), shape("gpt"), out) == local.record
    assert prepare_examples(settings, ours(), shape("gpt"), out) == local.record
    for name in ("train", "val"):
        far, near = open_examples(out).part(name), local.part(name)
        assert far is not None and near is not None and far.rows == near.rows
        assert (
            far.make(all_rows(far), all_rows(far), far.rows)[1]
            == near.make(all_rows(near), all_rows(near), near.rows)[1]
        )
