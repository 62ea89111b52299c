"""The one transformer: token ids to hidden states. GPT and BERT are thin heads on it.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.model.attention import LayerCache, Runs, Sight, seen, with_distance
from llm.model.parts import Block, make_norm
from llm.model.positions import alibi_slopes, rotary_table, sinusoid_table
from llm.settings import ModelSettings


class Transformer(nn.Module):
    """x = embeddings; for each block x = block(x); x = norm(x) in a pre-norm model.

    With a position in the embedding: learned or sinusoidal; in attention: rotary or ALiBi. A BERT adds a
    segment embedding and normalises the sum (Devlin et al. 2019, section 3).
    """

    def __init__(self, settings: ModelSettings, vocab_size: int) -> None:
        super().__init__()
        self.settings, self.vocab_size = settings, vocab_size
        bert, post = settings.kind == "bert", settings.norm_at == "post"
        segments = bert and (settings.next_sentence or settings.position == "learned")
        self.token_embed = nn.Embedding(vocab_size, settings.width)
        learned = settings.position == "learned"
        self.position_embed = nn.Embedding(settings.context, settings.width) if learned else None
        self.segment_embed = nn.Embedding(2, settings.width) if segments else None
        self.embed_norm = make_norm(settings) if bert else None
        self.blocks = nn.ModuleList(Block(settings, layer) for layer in range(settings.layers))
        self.final_norm = None if post else make_norm(settings)
        self.activation_checkpointing = False
        """Whether training keeps each block's input alone and computes the rest again."""
        self._tables(settings)

    def _tables(self, settings: ModelSettings) -> None:
        """Constants of the positions: computed, never saved."""
        tables: dict[str, Tensor] = {}
        if settings.position == "rotary":
            cos, sin = rotary_table(settings.context, settings.head_width, settings.rotary)
            tables = {"rotary_cos": cos, "rotary_sin": sin}
        elif settings.position == "sinusoidal":
            tables = {"sinusoids": sinusoid_table(settings.context, settings.width)}
        elif settings.position == "alibi":
            tables = {"slopes": alibi_slopes(settings.heads)}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def hidden(
        self,
        ids_BT: Tensor,
        documents_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        caches: Sequence[LayerCache] | None = None,
        past: int = 0,
    ) -> Tensor:
        """The last states [B, T, D] (normalised, where the model is pre-norm).

        documents: attention and positions stay inside equal numbers. caches: one a layer, which hold `past`
        earlier tokens of each row; documents then has theirs in front, [B, past + T]. ValueError where the
        row is longer than the context.
        """
        length = ids_BT.shape[1]
        if past + length > self.settings.context:
            raise ValueError(
                f"{past + length} tokens are more than the model's context of {self.settings.context}"
            )
        there = torch.arange(past + length, device=ids_BT.device)
        places = there[past:]
        if documents_BT is not None:
            places = places_in_documents(documents_BT, there)[:, past:]
        x_BTD = self._embed(ids_BT, places, segments_BT)
        sight = self._sight(there[past:], there, places, documents_BT, x_BTD)
        for layer, block in enumerate(self.blocks):
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, sight, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, sight, None if caches is None else caches[layer])
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def _embed(self, ids_BT: Tensor, places: Tensor, segments_BT: Tensor | None) -> Tensor:
        x_BTD = self.token_embed(ids_BT)
        if self.position_embed is not None:
            x_BTD = x_BTD + self.position_embed(places)
        elif self.settings.position == "sinusoidal":
            x_BTD = x_BTD + self.get_buffer("sinusoids")[places]
        if self.segment_embed is not None:
            x_BTD = x_BTD + self.segment_embed(
                torch.zeros_like(ids_BT) if segments_BT is None else segments_BT
            )
        if self.embed_norm is not None:
            x_BTD = self.embed_norm(x_BTD)
        if self.settings.dropout:
            x_BTD = nn.functional.dropout(x_BTD, self.settings.dropout, self.training)
        return x_BTD

    def _sight(
        self, asks: Tensor, there: Tensor, places: Tensor, documents: Tensor | None, x_BTD: Tensor
    ) -> Sight:
        settings, causal = self.settings, self.settings.causal
        rotary = None
        if settings.position == "rotary":
            cos, sin = self.get_buffer("rotary_cos")[places], self.get_buffer("rotary_sin")[places]
            rotary = (cos, sin) if places.dim() == 1 else (cos[:, None], sin[:, None])
        if documents is not None and len(asks) == len(there) and self._has_kernel_of_runs(x_BTD):
            return Sight(rotary, causal, None, None, runs_of(documents), settings.window)
        # Plain causal attention of whole rows is the kernel's own; a single token sees all that is there.
        plain = causal and len(asks) == len(there)
        explicit = causal and not plain and len(asks) > 1
        alibi = settings.position == "alibi"
        wide = near = None
        if documents is not None or explicit or alibi:
            wide = seen(asks, there, causal, None, documents)
        if settings.window is not None:
            near = seen(asks, there, causal, settings.window, documents)
        if alibi:
            slopes = self.get_buffer("slopes")
            wide = with_distance(wide, slopes, asks, there)
            near = None if near is None else with_distance(near, slopes, asks, there)
        return Sight(rotary, plain, wide, near)

    def _has_kernel_of_runs(self, x_BTD: Tensor) -> bool:
        """Whether attention of variable length can be used: on GPUs from compute capability 8.0 on, in half
        precision, for heads of 8, 16, .. 256, without dropout."""
        device, size = x_BTD.device.type, self.settings.head_width
        if (
            device != "cuda"
            or size % 8
            or size > 256
            or torch.cuda.get_device_capability(x_BTD.device) < (8, 0)
        ):
            return False
        half = torch.is_autocast_enabled(device) or x_BTD.dtype != torch.float32
        dropped = self.training and self.settings.dropout > 0
        return half and self.settings.position != "alibi" and not dropped

    def parameter_count(self) -> int:
        """Trained numbers, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())


def states_at(hidden_BTD: Tensor, positions_BK: Tensor) -> Tensor:
    """[B, K, D]: the states at these positions of each row."""
    batch, length, width = hidden_BTD.shape
    rows = torch.arange(batch, device=positions_BK.device)[:, None] * length
    return hidden_BTD.reshape(-1, width)[(rows + positions_BK).flatten()].view(batch, -1, width)


def places_in_documents(documents_BT: Tensor, there: Tensor) -> Tensor:
    """Each token's distance from the first of its document, [B, T]."""
    changes = torch.ones_like(documents_BT, dtype=torch.bool)
    changes[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    first = torch.where(changes, there, 0).cummax(1).values
    return there - first


def runs_of(documents_BT: Tensor) -> Runs:
    """The documents of all rows, laid end to end."""
    changes = torch.ones_like(documents_BT, dtype=torch.bool)
    changes[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = changes.flatten().nonzero().flatten()
    ends = nn.functional.pad(starts, (0, 1), value=documents_BT.numel()).to(torch.int32)
    return Runs(ends, int(ends.diff().max()))
