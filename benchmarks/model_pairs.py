"""The same architecture, shape and batch twice: our model and that of transformers, with a training step.

python -m benchmarks.model_pairs gpt2 ours --width 256 ...     a process to weigh: its peak on stdout
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import llm
from llm.model.inputs import Inputs
from llm.settings import ModelSettings

KINDS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bert": "BertForPreTraining"}
MASKED = 0.15


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    layers: int
    width: int
    heads: int
    vocab: int
    batch: int
    length: int

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, width {self.width}, vocabulary {self.vocab:,}, "
            f"batch {self.batch} x {self.length}"
        )

    @property
    def llama_hidden(self) -> int:
        """Two thirds of four times the width, to the next multiple of 16."""
        return -(-8 * self.width // 3 // 16) * 16


def our_model(kind: str, shape: Shape) -> nn.Module:
    """The architecture in our own settings."""
    common: dict[str, Any] = {
        "layers": shape.layers, "width": shape.width, "heads": shape.heads, "context": shape.length
    }  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {
        "gpt2": {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "biases": "all"},
        "llama": {"activation": "swiglu", "hidden": shape.llama_hidden, "kv_heads": shape.heads // 2},
        "bert": {"kind": "bert", "norm_eps": 1e-12},
    }
    return llm.build(ModelSettings.model_validate(common | kinds[kind]), shape.vocab)


def their_model(kind: str, shape: Shape) -> nn.Module:
    """The same of transformers, with its default attention and without dropout."""
    import transformers

    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=shape.vocab, n_positions=shape.length, n_embd=shape.width, n_layer=shape.layers,
            n_head=shape.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        )  # fmt: skip
    elif kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.llama_hidden,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads // 2, max_position_embeddings=shape.length,
            tie_word_embeddings=True, use_cache=False,
        )  # fmt: skip
    else:
        config = transformers.BertConfig(
            vocab_size=shape.vocab, hidden_size=shape.width, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=4 * shape.width,
            max_position_embeddings=shape.length, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
    model: nn.Module = getattr(transformers, KINDS[kind])(config)
    return model.train()


@dataclass(frozen=True)
class Data:
    """One batch in both forms: for a BERT 15 % of the places are guessed, and two parts are told apart."""

    ids: Tensor
    targets: Tensor
    places: Tensor
    segments: Tensor
    next_labels: Tensor

    @classmethod
    def of(cls, shape: Shape) -> Data:
        chance = torch.Generator().manual_seed(0)
        rows, length = shape.batch, shape.length
        draw = lambda *size: torch.randint(5, shape.vocab, size, generator=chance)  # noqa: E731
        places = torch.rand(rows, length, generator=chance).argsort(1)[:, : int(MASKED * length)]
        segments = (torch.arange(length) >= length // 2).long().expand(rows, length).contiguous()
        labels = torch.randint(0, 2, (rows,), generator=chance)
        return cls(draw(rows, length), draw(rows, length), places.sort(1).values, segments, labels)


def our_loss(kind: str, model: Any, data: Data) -> Tensor:
    """Mean loss, as the trainer takes it."""
    if kind != "bert":
        weights = torch.ones(data.targets.shape)
        sums: Tensor = model.losses(Inputs(data.ids, data.targets, weights))
        return sums[0] / data.targets.numel()
    weights = torch.ones(data.places.shape)
    whole = torch.zeros_like(data.ids)  # one document a row, no padding: the mask is there, as in training
    sums = model.losses(
        Inputs(
            data.ids, data.targets.gather(1, data.places), weights, data.places, whole, data.segments,
            data.next_labels, torch.ones(len(data.ids)),
        )
    )  # fmt: skip
    return sums[0] / weights.numel() + sums[2] / len(data.ids)


def their_loss(kind: str, model: Any, data: Data) -> Tensor:
    """Mean loss by the model's own labels."""
    if kind != "bert":
        found: Tensor = model(input_ids=data.ids, labels=data.targets).loss
        return found
    chosen = data.targets.gather(1, data.places)
    labels = torch.full_like(data.ids, -100).scatter(1, data.places, chosen)
    loss: Tensor = model(
        input_ids=data.ids, attention_mask=torch.ones_like(data.ids), token_type_ids=data.segments,
        labels=labels, next_sentence_label=data.next_labels,
    ).loss  # fmt: skip
    return loss


def training_step(kind: str, side: str, shape: Shape, bf16: bool, compiled: bool) -> Callable[[], float]:
    """A step: forward, backward, AdamW. Ours is compiled block by block, theirs as a whole."""
    torch.manual_seed(0)
    if side == "ours":
        model, loss_of = our_model(kind, shape), our_loss
        if compiled:
            for block in model.blocks:  # type: ignore[union-attr]
                block.compile()  # type: ignore[union-attr]
    else:
        model, loss_of = their_model(kind, shape), their_loss
        if compiled:
            model.compile()
    optimizer, data = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), Data.of(shape)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = loss_of(kind, model, data)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def resident_mib(which: str) -> float:
    """What the process holds now (VmRSS), or held at most (VmHWM). getrusage would count its parent, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_pairs", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("side", choices=("ours", "theirs"))
    for name in Shape.__dataclass_fields__:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args(argv)
    shape = Shape(**{name: getattr(options, name) for name in Shape.__dataclass_fields__})
    import transformers.models  # noqa: F401 (on both sides, so that what is imported weighs the same)

    their_model(options.kind, Shape(1, 16, 2, 16, 1, 8))
    before = resident_mib("VmRSS")
    step = training_step(options.kind, options.side, shape, options.bf16, compiled=False)
    for _ in range(3):
        step()
    print(resident_mib("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1:])
