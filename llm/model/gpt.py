"""A GPT: a causal pre-norm transformer from token ids to next-token logits.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm.model.head import LMHead
from llm.model.init import initialise
from llm.model.parts import Block, make_norm, rotary_table
from llm.settings import ModelSettings


class GPT(nn.Module):
    """Token ids [B, T] to logits [B, T, V] (Radford et al. 2019, with the switches of ModelSettings)."""

    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, settings: ModelSettings, vocab_size: int, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        self.vocab_size = vocab_size
        self.token_embed = nn.Embedding(vocab_size, settings.width)
        self.position_embed = (
            nn.Embedding(settings.context, settings.width) if settings.position == "learned" else None
        )
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.final_norm = make_norm(settings)
        self.lm_head = LMHead(settings.width, vocab_size)
        if settings.tied:
            self.lm_head.weight = self.token_embed.weight
        cos, sin = rotary_table(settings.context, settings.width // settings.heads)
        self.register_buffer("rotary_cos", cos, persistent=False)
        self.register_buffer("rotary_sin", sin, persistent=False)
        initialise(self, seed, settings.init_std, settings.layers)

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """The final normalised states [B, T, D]."""
        length = ids_BT.shape[1]
        if length > self.settings.context:
            raise ValueError(f"{length} tokens are more than the model's context of {self.settings.context}")
        x_BTD = self.token_embed(ids_BT)
        rotary = None
        if self.position_embed is not None:
            x_BTD = x_BTD + self.position_embed(torch.arange(length, device=ids_BT.device))
        else:
            rotary = (self.rotary_cos[:length], self.rotary_sin[:length])
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary)
        return self.final_norm(x_BTD)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.lm_head(self.hidden(ids_BT))

    def loss_sum(self, ids_BT: Tensor, targets_BT: Tensor, weights_BT: Tensor) -> Tensor:
        """Summed cross-entropy in nats of the next tokens, each times its weight (0 leaves it out)."""
        loss: Tensor = self.lm_head(self.hidden(ids_BT), targets_BT, weights_BT)
        return loss

    def parameter_count(self) -> int:
        """Trained numbers, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
