"""A transformer with the head of a task: what is fine-tuned.

Shapes: B rows, T tokens, D width, C outputs of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.finetune_settings import SEQUENCE_KINDS, TaskKind
from llm.model.init import initialise
from llm.model.inputs import Inputs
from llm.model.losses import LOSSES
from llm.model.transformer import Transformer, states_at
from llm.settings import ModelSettings


@dataclass(frozen=True)
class Head:
    """What stands on the body; plain values, as a run's record has them (`task.head`)."""

    kind: TaskKind
    outputs: int
    """Classes; 1 of a regression; 2 of question answering: start and end."""
    loss: str = "cross_entropy"
    """cross_entropy or hinge, where the kind has a choice."""
    dropout: float = 0.0
    """Share of the head's input that is dropped in training."""

    @property
    def of_row(self) -> bool:
        """Whether there is one answer for a row; else one for each token."""
        return self.kind in SEQUENCE_KINDS

    @property
    def loss_name(self) -> str:
        """Its name in `losses.LOSSES`."""
        if self.kind == "regression":
            return "mse"
        if self.kind == "multi_label":
            return "binary_hinge" if self.loss == "hinge" else "binary_cross_entropy"
        return self.loss


class TaskModel(Transformer):
    """Token ids [B, T] to what a head says of each row [B, C] or of each token [B, T, C].

    The heads are those of transformers, so that weights are exchanged one to one. A BERT's for rows: a linear
    map of tanh(pooler(state of the first token)) (Devlin et al. 2019, section 4.1); a GPT's for rows: one
    without bias, of the last token's state (Radford et al. 2018, section 3.2); for tokens: a linear map of
    each state; for question answering two outputs a token, whose softmax over the row is the place of the
    answer's first and last token (Devlin et al. 2019, section 4.2). What enters a head is dropped out; what
    leaves it is computed in fp32.
    """

    terms: ClassVar = {"loss": "tokens"}
    """Parts of the loss, in the order of `losses`, with what each sum is divided by over a batch."""
    measured: ClassVar = {"loss": "tokens"}
    """The same of `measures`."""

    def __init__(self, settings: ModelSettings, vocab_size: int, head: Head, seed: int = 0) -> None:
        super().__init__(settings, vocab_size)
        self.task = head
        bert = settings.kind == "bert"
        self.pooler = nn.Linear(settings.width, settings.width) if bert and head.of_row else None
        self.head = nn.Linear(settings.width, head.outputs, bias=bert or not head.of_row)
        initialise(self, seed, settings)

    def forward(
        self,
        ids_BT: Tensor,
        documents_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        positions_B1: Tensor | None = None,
    ) -> Tensor:
        """[B, C] or [B, T, C], fp32. `positions`: of a GPT's last tokens; None: the last of all."""
        states = self.hidden(ids_BT, documents_BT, segments_BT)
        if self.pooler is not None:
            states = self.pooler(states[:, 0]).tanh()
        elif self.task.of_row:
            states = states[:, -1] if positions_B1 is None else states_at(states, positions_B1)[:, 0]
        states = F.dropout(states, self.task.dropout, self.training)
        with torch.autocast(states.device.type, enabled=False):
            outputs: Tensor = self.head(states.float())
        return outputs

    def outputs(self, inputs: Inputs) -> Tensor:
        """[B, C]; of kinds for tokens [B, T, C]. fp32."""
        return self(inputs.ids, inputs.documents, inputs.segments, inputs.positions)

    def losses(self, inputs: Inputs, z_loss: float = 0.0) -> Tensor:
        """[1]: the weighted sum of the task's loss over the targets. A z-loss is for vocabularies."""
        targets, weights, loss = inputs.targets, inputs.weights, LOSSES[self.task.loss_name]
        assert targets is not None and weights is not None
        outputs = self.outputs(inputs)
        match self.task.kind:
            case "regression":
                assert inputs.values is not None
                return loss(outputs, inputs.values, weights)[None]
            case "multi_label":
                return loss(outputs, targets, weights)[None]
            case "question_answering":
                outputs = _within_text(outputs, inputs.documents).transpose(1, 2)  # [B, 2, T]: T are classes
        return loss(outputs.reshape(-1, outputs.shape[-1]), targets.flatten(), weights.flatten())[None]

    def measures(self, inputs: Inputs) -> Tensor:
        """[1]: the same sum; without dropout where the model is in evaluation."""
        return self.losses(inputs)


def _within_text(outputs_BTC: Tensor, documents_BT: Tensor | None) -> Tensor:
    """No answer in the padding: else a loss would change with how far a row is padded."""
    if documents_BT is None:
        return outputs_BTC
    padding = documents_BT != documents_BT[:, :1]
    # Finite: a target without weight may stand there, and infinity times zero is no number.
    return outputs_BTC.masked_fill(padding[..., None], torch.finfo(outputs_BTC.dtype).min)
