"""A micro-batch's arrays as the tensors that a model takes."""

from __future__ import annotations

import torch

from llm.data.samples import MicroBatch
from llm.model.inputs import Inputs


def inputs_of(micro: MicroBatch, device: torch.device) -> Inputs:
    """A micro-batch on the device."""
    arrays = (
        micro.inputs, micro.targets, micro.weights, micro.positions, micro.documents, micro.segments,
        micro.next_labels, micro.next_weights, micro.values,
    )  # fmt: skip
    return Inputs._make(None if a is None else torch.from_numpy(a) for a in arrays).to(device)
