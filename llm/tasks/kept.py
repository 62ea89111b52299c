"""What scoring keeps of a forward: a few numbers for each row, or each target, with the row's number.

Shapes: B rows of a micro-batch, T tokens, C outputs of the head. All arrays of what is kept are equally long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llm.data.samples import MicroBatch
from llm.tasks.classification import Floats
from llm.tasks.judging import class_loss
from llm.tasks.spans import best_spans

Kept = dict[str, npt.NDArray[Any]]


def kept_of(
    kind: str,
    micro: MicroBatch,
    outputs: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_] | None = None,
) -> Kept:
    """Of the rows that are there. `allowed` [B, T]: tokens that an answer may begin or end with."""
    match kind:
        case "token_classification":
            return _of_targets(micro, outputs)
        case "instruction":
            return _of_answers(micro, outputs)
        case "question_answering":
            assert allowed is not None
            return _of_spans(micro, outputs, allowed)
    there = micro.numbers >= 0
    return {"row": micro.numbers[there], "outputs": outputs[there]}


def joined(parts: list[Kept]) -> Kept:
    """One after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_targets(micro: MicroBatch, outputs: npt.NDArray[np.float32]) -> Kept:
    """Of each word that is judged: outputs [B, T, C] at its first piece."""
    there = _judged(micro)
    rows = np.broadcast_to(micro.numbers[:, None], there.shape)
    return {"row": rows[there], "outputs": outputs[there], "targets": micro.targets[there]}


def _of_answers(micro: MicroBatch, outputs: npt.NDArray[np.float32]) -> Kept:
    """Of each example of each row, sums over its tokens of outputs [B, T, 2]: nats, and 1 for a hit."""
    there = _judged(micro)
    rows = np.broadcast_to(micro.numbers[:, None], there.shape)[there]
    documents = np.zeros(len(rows), np.int64) if micro.documents is None else micro.documents[there]
    pairs, unit = np.unique(np.stack([rows, documents], 1), axis=0, return_inverse=True)
    nats, hits, tokens = (
        np.bincount(unit.ravel(), weights, minlength=len(pairs))
        for weights in (
            outputs[there][:, 0].astype(np.float64),
            outputs[there][:, 1].astype(np.float64),
            None,
        )
    )
    return {"row": pairs[:, 0], "nats": nats, "hits": hits, "tokens": tokens.astype(np.float64)}


def _of_spans(micro: MicroBatch, outputs: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_]) -> Kept:
    """Of each row: its best span, what "none" scores (first token to first token), the loss of its ends."""
    there = micro.numbers >= 0
    logits = outputs[there].astype(np.float64)
    if micro.documents is not None:  # no answer in the padding, as in training
        documents = micro.documents[there]
        logits[documents != documents[:, :1]] = -np.inf
    spans = best_spans(logits[..., 0], logits[..., 1], allowed[there])
    targets = micro.targets[there]
    nats: Floats = np.zeros(len(logits))
    for end in (0, 1):
        nats += class_loss(logits[..., end], targets[:, end])
    none = logits[:, 0].sum(1)
    numbers = micro.numbers[there]
    return {"row": numbers, "nats": nats, "none": none, **spans._asdict()}


def _judged(micro: MicroBatch) -> npt.NDArray[np.bool_]:
    return (micro.weights > 0) & (micro.numbers >= 0)[:, None]
