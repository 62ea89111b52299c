"""A BERT: the transformer with heads that guess masked tokens and tell whether a sentence follows.

Shapes: B batch, T tokens, K guessed tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.head import LMHead
from llm.model.init import initialise
from llm.model.inputs import Inputs
from llm.model.losses import cross_entropy
from llm.model.parts import activate, make_norm
from llm.model.transformer import Transformer, states_at
from llm.settings import GATED, ModelSettings


class Transform(nn.Module):
    """norm(activation(dense(x))): what the hidden states pass on their way to the output layer."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.activation = "gelu" if settings.activation in GATED else settings.activation
        self.dense = nn.Linear(settings.width, settings.width, bias=settings.has_bias("head"))
        self.norm = make_norm(settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(activate(self.dense(x), self.activation))


class BERT(Transformer):
    """Token ids [B, T] to logits [B, T, V] of the tokens themselves, seen from both sides.

    Devlin et al. 2019, sections 3.1 and A.2: masked language modelling, and next sentence prediction from
    tanh(pooler(the first token's state)).
    """

    terms: ClassVar = {"mlm_loss": "tokens", "z_loss": "tokens", "nsp_loss": "pairs"}
    """Parts of the loss, in the order of `losses`, with what each sum is divided by over a batch."""
    measured: ClassVar = {
        "mlm_loss": "tokens", "masked_accuracy": "tokens", "nsp_loss": "pairs", "nsp_accuracy": "pairs"
    }  # fmt: skip
    """The same of `measures`."""

    def __init__(self, settings: ModelSettings, vocab_size: int, seed: int = 0) -> None:
        super().__init__(settings, vocab_size)
        self.lm_transform = Transform(settings)
        self.lm_head = LMHead(settings.width, vocab_size, bias=True, softcap=settings.softcap)
        if settings.tied:
            self.lm_head.weight = self.token_embed.weight
        self.pooler = nn.Linear(settings.width, settings.width) if settings.next_sentence else None
        self.next_head = nn.Linear(settings.width, 2) if settings.next_sentence else None
        initialise(self, seed, settings)

    def forward(
        self, ids_BT: Tensor, documents_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        return self.lm_head(self.lm_transform(self.hidden(ids_BT, documents_BT, segments_BT)))

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """tanh(dense(state of the first token)), [B, D]; what stands for the whole row."""
        assert self.pooler is not None, "this BERT was made without next sentence prediction"
        return self.pooler(hidden_BTD[:, 0]).tanh()

    def next_logits(self, hidden_BTD: Tensor) -> Tensor:
        """[B, 2] fp32: the second part follows the first, or it is from another document."""
        assert self.next_head is not None, "this BERT was made without next sentence prediction"
        return self.next_head(self.pooled(hidden_BTD)).float()

    def losses(self, inputs: Inputs, z_loss: float = 0.0) -> Tensor:
        """Sums, in the order of `terms`: nats of the guessed tokens, z-loss, nats of the pairs."""
        masked, pairs = self._sums(inputs, z_loss, hits=False)
        return F.pad(masked[:2], (0, 1)) + F.pad(pairs[:1], (2, 0))

    def measures(self, inputs: Inputs) -> Tensor:
        """Sums, in the order of `measured`: nats and hits of guessed tokens, nats and hits of pairs."""
        masked, pairs = self._sums(inputs, 0.0, hits=True)
        return F.pad(masked[::2], (0, 2)) + F.pad(pairs, (2, 0))

    def _sums(self, inputs: Inputs, z_loss: float, hits: bool) -> tuple[Tensor, Tensor]:
        """Of guessed tokens [3] as LMHead gives them; of pairs nats and hits [2]."""
        assert inputs.targets is not None
        hidden_BTD = self.hidden(inputs.ids, inputs.documents, inputs.segments)
        chosen = hidden_BTD if inputs.positions is None else states_at(hidden_BTD, inputs.positions)
        masked: Tensor = self.lm_head(self.lm_transform(chosen), inputs.targets, inputs.weights, z_loss, hits)
        if self.next_head is None or inputs.next_labels is None or inputs.next_weights is None:
            return masked, masked.new_zeros(2)
        logits = self.next_logits(hidden_BTD)
        nats = cross_entropy(logits, inputs.next_labels, inputs.next_weights)
        right = ((logits.argmax(1) == inputs.next_labels) * inputs.next_weights).sum()
        return masked, torch.stack((nats, right))
