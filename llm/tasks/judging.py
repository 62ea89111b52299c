"""A model's outputs on a whole part, and what should have come out, to the metrics of the task.

Shapes: N examples in their order, W words of an example, C classes. What comes in is of any float type, what
comes out is taken in float64.

| kind | outputs | references |
| --- | --- | --- |
| classification | logits [N, C] | class [N] |
| multi_label | logits [N, C] | 0 or 1, [N, C] |
| regression | [N] or [N, 1] | [N] or [N, 1] |
| token_classification | of each example logits [W, C] | of each example class [W] |
| question_answering | `SpanAnswers` | of each example the texts of its answers, none: there is no answer |
| instruction | `AnswerTokens` | not needed |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llm.tasks import spans
from llm.tasks.classification import Floats, Ints
from llm.tasks.judged import Answers, Classes, Judged, ManyLabels, Numbers, Texts, Written

Loss = Literal["cross_entropy", "hinge"]


@dataclass(frozen=True)
class SpanAnswers:
    """question_answering: what was answered, and the loss of it."""

    texts: Sequence[str]
    nats: Floats  # [N]: cross-entropy of the ends of the true spans, summed over its windows
    ends: Floats  # [N]: how many those are, two a window


@dataclass(frozen=True)
class AnswerTokens:
    """instruction: sums over the tokens of each answer."""

    nats: Floats  # [N]
    hits: Floats  # [N]: tokens that were the likeliest
    tokens: Floats  # [N]


def score(
    kind: str, outputs: Any, references: Any, labels: Sequence[str] = (), loss: Loss = "cross_entropy"
) -> dict[str, float]:
    """Every metric of the task by its name, as `metric_names` has them."""
    return numbers_of(judge(kind, outputs, references, labels, loss))


def numbers_of(judged: Judged) -> dict[str, float]:
    """Its metrics, each example counted once."""
    return {name: float(value) for name, value in judged.numbers().items()}


def metric_names(kind: str, labels: Sequence[str] = ()) -> list[str]:
    """What `score` gives for the kind and these classes, in its order."""
    none, classes = np.zeros(0), len(labels)
    nothing: dict[str, tuple[Any, Any]] = {
        "classification": (np.zeros((0, classes)), none),
        "multi_label": (np.zeros((0, classes)), np.zeros((0, classes))),
        "regression": (none, none),
        "token_classification": ([], []),
        "question_answering": (SpanAnswers([], none, none), []),
        "instruction": (AnswerTokens(none, none, none), None),
    }
    return list(judge(kind, *nothing[kind], labels).numbers())


def judge(
    kind: str, outputs: Any, references: Any, labels: Sequence[str] = (), loss: Loss = "cross_entropy"
) -> Judged:
    """What each example came to: what metrics, their intervals and tables are taken from."""
    match kind:
        case "classification":
            logits, truth = _floats(outputs), _ints(references)
            return Classes(labels, truth, logits.argmax(1), class_loss(logits, truth, loss), len(truth))
        case "multi_label":
            logits, truth = _floats(outputs), _ints(references)
            nats = label_loss(logits, truth, loss).mean(1) if truth.size else np.zeros(len(truth))
            return ManyLabels(labels, truth, (logits > 0).astype(np.int64), nats)
        case "regression":
            return Numbers(_floats(references).reshape(-1), _floats(outputs).reshape(-1))
        case "token_classification":
            return _words(outputs, references, labels)
        case "question_answering":
            pairs = list(zip(outputs.texts, references, strict=True))
            exact, f1 = (_each(of, pairs) for of in (spans.exact_match, spans.token_f1))
            return Answers(exact, f1, outputs.nats, outputs.ends)
        case "instruction":
            return Texts(outputs.nats, outputs.hits, outputs.tokens)
    raise AssertionError(f"no task is of kind {kind}")


def judge_written(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Judged:
    """Answers that an instruction model wrote, against those that were wanted."""
    pairs = list(zip(texts, references, strict=True))
    return Written(_each(spans.exact_match, pairs), _each(spans.token_f1, pairs))


def class_loss(logits: Floats, truth: Ints, loss: Loss = "cross_entropy") -> Floats:
    """[N] of logits [N, C]: -log softmax at the true class; or max(0, 1 + highest other - that of the true).

    The latter is the hinge loss of Crammer and Singer 2001, eq. 4.
    """
    rows = np.arange(len(truth))
    right = logits[rows, truth]
    if loss == "cross_entropy":
        highest = logits.max(1, initial=-np.inf)
        return np.log(np.exp(logits - highest[:, None]).sum(1)) + highest - right
    others = logits.copy()
    others[rows, truth] = -np.inf
    return np.maximum(0.0, 1 + others.max(1, initial=-np.inf) - right)


def label_loss(logits: Floats, truth: Ints, loss: Loss = "cross_entropy") -> Floats:
    """[N, C] of logits [N, C]: binary cross-entropy of the logistic of each; or max(0, 1 - sign x logit)."""
    sign = 2.0 * truth - 1
    if loss == "cross_entropy":
        return np.logaddexp(0.0, -sign * logits)
    return np.maximum(0.0, 1 - sign * logits)


def _words(outputs: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> Classes:
    logits = np.concatenate([np.zeros((0, len(labels))), *map(_floats, outputs)])
    truth = np.concatenate([np.zeros(0, np.int64), *map(_ints, references)])
    example = np.repeat(np.arange(len(references)), [len(words) for words in references])
    nats = class_loss(logits, truth)
    return Classes(labels, truth, logits.argmax(1), nats, len(references), example, correlated=False)


def _each(of: Any, pairs: Sequence[tuple[str, Sequence[str]]]) -> Floats:
    return np.array([of(answer, golds) for answer, golds in pairs], np.float64)


def _floats(values: Any) -> Floats:
    return np.asarray(values, np.float64)


def _ints(values: Any) -> Ints:
    return np.asarray(values, np.int64)
