"""Outputs to metrics: names, losses as torch has them, windows joined, edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk

from llm.tasks import windows
from llm.tasks.judging import (
    AnswerTokens,
    SpanAnswers,
    class_loss,
    judge,
    judge_written,
    label_loss,
    metric_names,
    numbers_of,
    score,
)

LABELS = ["no", "yes", "macro"]
AVERAGED = [f"{n}_{a}" for n in ("precision", "recall", "f1") for a in ("macro", "micro", "weighted")]


def drawn(kind: str, seed: int = 0, examples: int = 40) -> tuple[Any, Any]:
    """Outputs and references of a part."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(examples, 3)).astype(np.float32)
    match kind:
        case "classification":
            return logits, chance.integers(3, size=examples)
        case "multi_label":
            return logits, chance.integers(2, size=(examples, 3))
        case "regression":
            return logits[:, :1], logits[:, 1].astype(np.float64)
        case "token_classification":
            sizes = chance.integers(1, 5, examples)
            words = [chance.normal(size=(size, 3)) for size in sizes]
            return words, [chance.integers(3, size=size) for size in sizes]
        case "question_answering":
            texts = ["a cat", "dogs", "", "the cat"][: examples % 5 or 4]
            golds = [["cat"], ["dog", "dogs here"], [], ["dog"]][: len(texts)]
            return SpanAnswers(texts, np.arange(len(texts)) + 0.5, np.full(len(texts), 2.0)), golds
    tokens = chance.integers(1, 6, examples).astype(np.float64)
    return AnswerTokens(tokens * 0.7, np.floor(tokens / 2), tokens), None


KINDS = (
    "classification", "multi_label", "regression", "token_classification", "question_answering", "instruction"
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_numbers(kind: str) -> None:
    for labels in (["no", "yes"], LABELS):
        names = metric_names(kind, labels)
        assert names[0] == "loss" and len(set(names)) == len(names)
        if len(labels) == 3:
            found = score(kind, *drawn(kind), labels)
            assert list(found) == names
            assert all(np.isfinite(value) and type(value) is float for value in found.values())


def test_names_of_each_kind() -> None:
    by_class = ["f1_no", "f1_yes", "f1_class_macro"]
    assert metric_names("classification", LABELS) == ["loss", "accuracy", *AVERAGED, "matthews", *by_class]
    assert set(metric_names("classification", LABELS[:2])) >= {"precision", "recall", "f1", "f1_yes"}
    assert metric_names("multi_label", LABELS) == ["loss", "exact_match", "hamming", *AVERAGED, *by_class]
    assert metric_names("regression") == ["loss", "mse", "mae", "pearson", "spearman", "r2"]
    assert metric_names("token_classification", LABELS) == ["loss", "accuracy", *AVERAGED, *by_class]
    assert metric_names("question_answering") == ["loss", "exact_match", "f1"]
    assert metric_names("instruction") == ["loss", "perplexity", "token_accuracy"]


def test_losses_are_torchs() -> None:
    chance = np.random.default_rng(1)
    logits, truth = chance.normal(size=(50, 4)) * 20, chance.integers(4, size=50)
    many = chance.integers(2, size=(50, 4))
    z, t, m = torch.from_numpy(logits), torch.from_numpy(truth), torch.from_numpy(many).double()
    near(class_loss(logits, truth), F.cross_entropy(z, t, reduction="none"))
    near(class_loss(logits, truth, "hinge") / 4, torch.stack([multi_margin(*pair) for pair in zip(z, t)]))
    near(label_loss(logits, many), F.binary_cross_entropy_with_logits(z, m, reduction="none"))
    near(label_loss(logits, many, "hinge"), F.relu(1 - (2 * m - 1) * z))


def multi_margin(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Crammer and Singer's from torch's, which sums over all other classes: with the highest alone."""
    others = torch.cat([z[:t], z[t + 1 :]])
    pair = torch.stack([others.max(), z[t]])[None]
    return F.multi_margin_loss(pair, torch.tensor([1]), reduction="sum") / 2


def near(ours: Any, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_extreme_logits_give_finite_losses() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert class_loss(logits, np.array([0, 0])).tolist() == [0.0, 2e4]
    assert label_loss(logits, np.array([[1, 0], [1, 0]])).tolist() == [[0.0, 0.0], [1e4, 1e4]]


def test_a_classification_is_scikit_learns() -> None:
    logits, truth = drawn("classification", 3, 200)
    found, guess = score("classification", logits, truth, LABELS), logits.argmax(1)
    shares = torch.from_numpy(logits).double().softmax(1).numpy()
    assert found["loss"] == pytest.approx(sk.log_loss(truth, shares), abs=1e-12)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    f1 = sk.f1_score(truth, guess, average=None)
    assert [found[name] for name in ("f1_no", "f1_yes", "f1_class_macro")] == pytest.approx(f1, abs=1e-12)
    two, truth = logits[:, :2], truth % 2
    found = score("classification", two, truth, LABELS[:2])
    for name, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found[name] == pytest.approx(of(truth, two.argmax(1)), abs=1e-12)


def test_words_are_judged_one_by_one_and_drawn_by_example() -> None:
    outputs, truth = drawn("token_classification", 4)
    judged = judge("token_classification", outputs, truth, LABELS)
    guesses, flat = np.concatenate(outputs).argmax(1), np.concatenate(truth)
    assert judged.examples == 40 < len(flat)
    assert numbers_of(judged)["f1_macro"] == pytest.approx(
        sk.f1_score(flat, guesses, average="macro"), abs=1e-12
    )
    counts = np.zeros((1, 40))
    counts[0, [3, 7]] = 1, 2
    taken = [3, 7, 7]
    wanted = score("token_classification", [outputs[i] for i in taken], [truth[i] for i in taken], LABELS)
    assert {name: float(value[0]) for name, value in judged.numbers(counts).items()} == pytest.approx(
        wanted, abs=1e-12
    )


def test_answers_and_what_was_written() -> None:
    found = score("question_answering", *drawn("question_answering", examples=4))
    assert found == pytest.approx(
        {"loss": (0.5 + 1.5 + 2.5 + 3.5) / 8, "exact_match": 0.5, "f1": (1 + 2 / 3 + 1) / 4}
    )
    written = judge_written(["A cat.", "no"], [["cat"], ["yes"]])
    assert numbers_of(written) == {"exact_match": 0.5, "f1": 0.5}


def test_an_instruction_is_measured_by_tokens_not_by_answers() -> None:
    tokens = AnswerTokens(np.array([1.0, 8.0]), np.array([1.0, 2.0]), np.array([1.0, 9.0]))
    found = score("instruction", tokens, None)
    assert found == pytest.approx({"loss": 0.9, "perplexity": np.exp(0.9), "token_accuracy": 0.3})


# Windows.


def test_logits_of_windows_are_joined_by_their_mean() -> None:
    example = np.array([0, 1, 1, 1, 3])
    outputs = np.arange(10, dtype=np.float32).reshape(5, 2) ** 2
    logits = windows.mean_of_rows(outputs, example)
    assert logits.tolist() == [[0, 1], [(4 + 16 + 36) / 3, (9 + 25 + 49) / 3], [64, 81]]


def kept_spans(**changes: Any) -> dict[str, Any]:
    return {
        "row": np.array([4, 5, 6]), "score": np.array([3.0, 7.0, 1.0]), "none": np.array([9.0, 5.0, 2.0]),
        "start": np.array([1, 2, 3]), "end": np.array([1, 4, 3]), "nats": np.array([1.0, 2.0, 4.0]),
        **changes,
    }  # fmt: skip


def say(row: int, start: int, end: int) -> str:
    return f"{row}:{start}-{end}"


def test_the_best_span_of_all_windows_answers() -> None:
    example = np.array([0, 0, 1])
    found = windows.best_answers(kept_spans(), example, say, may_be_none=False)
    assert found.texts == ["5:2-4", "6:3-3"]
    assert found.nats.tolist() == [3.0, 4.0] and found.ends.tolist() == [4.0, 2.0]
    found = windows.best_answers(kept_spans(), example, say, may_be_none=True)
    assert found.texts == ["5:2-4", ""], "in one window 'none' was above 7, in the other it was not"
    no_span = kept_spans(score=np.full(3, -np.inf))
    assert windows.best_answers(no_span, example, say, may_be_none=False).texts == ["", ""]


@pytest.mark.parametrize("most", [None, 1, 7, 20, 21])
def test_a_part_of_the_examples_is_spread_over_all(most: int | None) -> None:
    example_of_row = np.repeat(np.arange(20), [1, 3] * 10)
    rows = windows.rows_of(example_of_row, 20, most)
    found = np.unique(example_of_row[rows])
    assert len(found) == min(most or 20, 20)
    assert len(rows) == sum([1, 3][i % 2] for i in found), "an example is scored with all its windows"
    if most == 7:
        assert found.tolist() == [0, 2, 5, 8, 11, 14, 17]
