"""A part is scored once, whoever scores it: one worker or several, windows joined, nothing doubled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from torch import Tensor, nn

from llm.model.inputs import Inputs
from llm.model.tasks import make_task_model
from llm.tasks.example_rows import Examples
from llm.tasks.examples import open_examples
from llm.tasks.heads import head_of
from llm.tasks.inputs import inputs_of
from llm.tasks.judging import metric_names
from llm.tasks.scoring import Scored, evaluate_part
from llm.train.group import Group
from llm.train.objective import Objective
from tests.llm.tasks.example_sets import KINDS, LABELS, make_set, shape, task_of, tokenizer
from tests.llm.train.processes import run_workers

CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)
CASES = [
    (kind, model) for kind in KINDS for model in ("gpt", "bert") if (kind, model) != ("instruction", "bert")
]


def model_of(kind: str, model: str) -> Any:
    head = head_of({"labels": LABELS}, task_of(kind))
    return make_task_model(shape(model), tokenizer().vocab_size, head, seed=3).eval()


def training_part(kind: str, folder: Path, model: str = "gpt", count: int = 30, **task: Any) -> Examples:
    part = make_set(kind, folder, model, count, **task).part("train", weighted=False)
    assert part is not None
    return part


def scored_by(rank: int, world: int, folder: str, model: Any, batch: int, most: int | None) -> Any:
    part = open_examples(folder).part("train")
    assert part is not None
    found = evaluate_part(
        model, Objective(model, "fp32").eval(), part, Group(rank, world, CPU), batch, most=most
    )
    return found.numbers, found.judged.examples, found.rows


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_two_workers_score_what_one_does(kind: str, model: str, tmp_path: Path) -> None:
    """About 20 examples in batches of 3: neither rows nor batches divide by two."""
    made = make_set(kind, tmp_path, model)
    for most in (None, 7):
        given = (str(made.folder), model_of(kind, model), 3, most)
        (one,) = run_workers(scored_by, 1, *given)
        first, second = run_workers(scored_by, 2, *given)
        assert first == second, "every worker knows the numbers"
        assert one == first, "to the bit"
        if kind != "instruction":  # whose packs are scored as wholes
            assert one[1] == (most or made.record["parts"]["train"]["examples"])
        assert list(one[0]) == metric_names(kind, made.record["labels"])
        assert all(np.isfinite(value) for value in one[0].values())


def test_more_workers_than_batches(tmp_path: Path) -> None:
    given = (
        str(make_set("classification", tmp_path, count=12).folder),
        model_of("classification", "gpt"),
        64,
        None,
    )
    (one,) = run_workers(scored_by, 1, *given)
    assert run_workers(scored_by, 2, *given) == [one] * 2


@pytest.mark.parametrize("model", ["gpt", "bert"])
def test_a_classification_is_what_row_after_row_says(model: str, tmp_path: Path) -> None:
    """Each row by itself through the model, windows joined by hand, metrics by scikit-learn."""
    part, made = training_part("classification", tmp_path, model), model_of("classification", model)
    assert part.rows > part.examples
    logits: dict[int, list[Any]] = {}
    for row in range(part.rows):
        number = np.array([row])
        micro, _ = part.make(number, number, 1)
        with torch.no_grad():
            found = made.outputs(inputs_of(micro, CPU))[0].double().numpy()
        logits.setdefault(part.example_of(row), []).append(found)
    joined = np.stack([np.mean(logits[example], axis=0) for example in range(part.examples)])
    truth = part.references().classes
    scored = evaluate_part(made, Objective(made, "fp32").eval(), part, ALONE, 4)
    assert scored.outputs == pytest.approx(joined, abs=1e-5)
    guess = joined.argmax(1)
    assert scored.numbers["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    assert scored.numbers["f1_macro"] == pytest.approx(sk.f1_score(truth, guess, average="macro"), abs=1e-12)
    shares = torch.from_numpy(joined).softmax(1).numpy()
    assert scored.numbers["loss"] == pytest.approx(sk.log_loss(truth, shares), abs=1e-5)


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_the_loss_is_that_of_training_where_nothing_is_joined(kind: str, model: str, tmp_path: Path) -> None:
    cut = {} if kind == "question_answering" else {"too_long": "truncate"}
    part, made = training_part(kind, tmp_path, model, **cut), model_of(kind, model)
    rows = np.arange(part.rows)
    micro, _ = part.make(rows, rows, part.rows)
    with torch.no_grad():
        wanted = float(made.losses(inputs_of(micro, CPU))[0]) / float(micro.weights.sum())
    found = evaluate_part(made, Objective(made, "fp32").eval(), part, ALONE, 5).numbers["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_the_loss_is_the_one_that_was_trained(kind: str, loss: str, tmp_path: Path) -> None:
    part = training_part(kind, tmp_path, too_long="truncate", loss=loss)
    head = head_of({"labels": LABELS}, task_of(kind, loss=loss))
    made = make_task_model(shape(), tokenizer().vocab_size, head, seed=3).eval()
    rows = np.arange(part.rows)
    micro, _ = part.make(rows, rows, part.rows)
    with torch.no_grad():
        wanted = float(made.losses(inputs_of(micro, CPU))[0]) / float(micro.weights.sum())
    found = evaluate_part(made, Objective(made, "fp32").eval(), part, ALONE, 5).numbers["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)


def knows(kind: str) -> Any:
    """A forward that knows the answers, to see what becomes of them."""

    def forward(inputs: Inputs, what: str) -> Tensor:
        assert what == "outputs" and inputs.targets is not None
        match kind:
            case "question_answering":
                ends = F.one_hot(inputs.targets, inputs.ids.shape[1]).float().transpose(1, 2)
                # "No answer here" is said with less force than an answer in another window.
                return ends * torch.where(inputs.targets[:, :1] == 0, 5.0, 9.0)[..., None]
            case "regression":
                assert inputs.values is not None
                return inputs.values
            case "multi_label":
                return inputs.targets.float() * 2 - 1
            case "classification":
                return F.one_hot(inputs.targets[:, 0], len(LABELS)) * 9.0
        return F.one_hot(inputs.targets, len(LABELS)) * 9.0

    return forward


def score_by(forward: Any, part: Examples) -> Scored:
    return evaluate_part(nn.Identity(), forward, part, ALONE, 7)


@pytest.mark.parametrize("model", ["gpt", "bert"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "instruction"])
def test_who_knows_all_gets_all_right(kind: str, model: str, tmp_path: Path) -> None:
    part = training_part(kind, tmp_path, model, count=60)
    scored = score_by(knows(kind), part)
    best = {
        "classification": {"accuracy": 1, "f1_macro": 1, "matthews": 1},
        "multi_label": {"exact_match": 1, "hamming": 0},
        "regression": {"mse": 0, "pearson": 1, "spearman": 1},
        "token_classification": {"accuracy": 1, "f1_weighted": 1},
        "question_answering": {"exact_match": 1, "f1": 1},
    }[kind]
    assert {name: scored.numbers[name] for name in best} == pytest.approx(best, abs=1e-9)
    assert scored.judged.examples == part.examples and scored.rows == part.rows
    if kind == "question_answering":
        golds = part.references().answers
        assert golds is not None and part.rows > part.examples
        assert scored.outputs.texts == [texts[0] if texts else "" for texts in golds]
        assert "" in scored.outputs.texts


def test_every_question_is_answered_where_each_has_an_answer(tmp_path: Path) -> None:
    """Then the highest span is taken, whatever "none" scores; else "none" can win."""

    def says_none(inputs: Inputs, what: str) -> Tensor:
        logits = torch.zeros(*inputs.ids.shape, 2)
        logits[:, 0] = 50.0
        return logits

    assert set(score_by(says_none, training_part("question_answering", tmp_path)).outputs.texts) == {""}
    part = training_part("question_answering", tmp_path / "answered", every_answer=True)
    assert all(score_by(says_none, part).outputs.texts)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_workers_share_the_batches_of_one(world: int, tmp_path: Path) -> None:
    """Each row goes through once, beside the same others; every worker forwards as often."""
    part = training_part("classification", tmp_path)

    def batches_of(rank: int, world: int) -> list[list[list[int]]]:
        found = []

        def forward(inputs: Inputs, what: str) -> Tensor:
            found.append(inputs.ids.tolist())
            return torch.zeros(len(inputs.ids), len(LABELS))

        evaluate_part(nn.Identity(), forward, part, _Apart(rank, world, CPU), 4)
        return found

    one, many = batches_of(0, 1), [batches_of(rank, world) for rank in range(world)]
    assert len({len(batches) for batches in many}) == 1
    empty = part.make(np.zeros(0, np.int64), np.zeros(0, np.int64), 4)[0].inputs.tolist()
    assert [batch for batches in many for batch in batches if batch != empty] == one


class _Apart(Group):
    """One worker of several, without the others."""

    def gather(self, value: Any) -> list[Any]:
        return [value]
