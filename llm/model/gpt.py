"""A GPT: the transformer with a head that tells the next token.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from llm.model.head import LMHead
from llm.model.init import initialise
from llm.model.inputs import Inputs
from llm.model.transformer import Transformer
from llm.settings import ModelSettings


class GPT(Transformer):
    """Token ids [B, T] to logits [B, T, V] of the token after each (Radford et al. 2019)."""

    terms: ClassVar = {"loss": "tokens", "z_loss": "tokens"}
    """Parts of the loss, in the order of `losses`, with what each sum is divided by over a batch."""
    measured: ClassVar = {"loss": "tokens"}
    """The same of `measures`."""

    def __init__(self, settings: ModelSettings, vocab_size: int, seed: int = 0) -> None:
        super().__init__(settings, vocab_size)
        self.lm_head = LMHead(settings.width, vocab_size, softcap=settings.softcap)
        if settings.tied:
            self.lm_head.weight = self.token_embed.weight
        initialise(self, seed, settings)

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        return self.lm_head(self.hidden(ids_BT, documents_BT))

    def losses(self, inputs: Inputs, z_loss: float = 0.0) -> Tensor:
        """Sums over the weighted targets, in the order of `terms`: nats of the next token, z-loss."""
        return self._sums(inputs, z_loss)[:2]

    def measures(self, inputs: Inputs) -> Tensor:
        """Sums over the weighted targets, in the order of `measured`: nats of the next token."""
        return self._sums(inputs, 0.0)[:1]

    def outputs(self, inputs: Inputs) -> Tensor:
        """[B, T, 2] fp32: nats of the next token, and 1 where it is the likeliest; whatever its weight."""
        each: Tensor = self.lm_head(self.hidden(inputs.ids, inputs.documents), inputs.targets, each=True)
        return each

    def _sums(self, inputs: Inputs, z_loss: float) -> Tensor:
        sums: Tensor = self.lm_head(
            self.hidden(inputs.ids, inputs.documents), inputs.targets, inputs.weights, z_loss
        )
        return sums
