"""The peer of the whole stack: a plain PyTorch training loop in one process, such as a user would write.

    python -m benchmarks.bare_loop RECIPE --tokens FILE --vocab N --steps N --out FILE

No Ray, no DeepSpeed, no checkpoint, no tracker: the model, AdamW, autocast, random batches of a flat file
of tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import llm
from cluster.recipe import load_recipe
from llm.model import Model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings, PretrainSettings
from llm.train.schedule import learning_rate
from llm.training_settings import OptimizerSettings


class Step(NamedTuple):
    """A step that is done."""

    time: float  # when, as time.time() has it
    loss: float


def random_batch(
    tokens: npt.NDArray[np.uint16], batch: int, length: int, chance: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, T], windows from anywhere in the file."""
    starts = chance.integers(len(tokens) - length, size=batch)
    x = torch.stack([torch.from_numpy(tokens[i : i + length].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
    return x, y


def make_optimizer(model: Model, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW, with weight decay for matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def mean_loss(model: Model, x: Tensor, y: Tensor, bf16: bool) -> Tensor:
    """Mean cross-entropy of the next tokens, by the model's own loss: stacks are compared, not kernels."""
    weights = torch.ones(y.shape, device=y.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
        return model.losses(Inputs(x, y, weights))[0] / y.numel()


def train_step(
    model: Model, optimizer: torch.optim.AdamW, x: Tensor, y: Tensor, bf16: bool, lr: float, clip: float
) -> float:
    """One update; the loss before it."""
    loss = mean_loss(model, x, y, bf16)
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def train(
    model: Model, tokens: npt.NDArray[np.uint16], settings: PretrainSettings, device: torch.device
) -> Iterator[Step]:
    """The settings' steps, one after the other."""
    optimizer, chance = make_optimizer(model, settings.optimizer), np.random.default_rng(settings.seed)
    for step in range(settings.steps):
        x, y = random_batch(tokens, settings.batch, settings.length, chance)
        if device.type == "cuda":
            x, y = x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        lr = learning_rate(step, settings.steps, settings.optimizer.lr, settings.schedule)
        loss = train_step(model, optimizer, x, y, settings.precision == "bf16", lr, settings.optimizer.clip)
        yield Step(time.time(), loss)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_loop", description=__doc__)
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("--tokens", required=True, help="flat file of uint16 tokens")
    parser.add_argument("--vocab", type=int, required=True, help="entries of the tokenizer")
    parser.add_argument("--steps", type=int, required=True, help="updates")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the matrix products"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--batch", type=int, help="samples of a step (default: the recipe's)")
    parser.add_argument("--out", required=True, help="JSON file for [[time, loss], ...]")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    overrides = {"pretrain.steps": str(options.steps), "pretrain.precision": options.precision}
    if options.batch:
        overrides |= {"pretrain.batch": str(options.batch)}
    recipe = load_recipe(options.recipe, overrides)
    settings = recipe.need(PretrainSettings)
    use_cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if use_cuda else "cpu")
    tokens = np.memmap(options.tokens, "<u2", "r")
    model = llm.build(recipe.need(ModelSettings), options.vocab, settings.seed).to(device)
    steps = list(train(model, tokens, settings, device))
    Path(options.out).write_text(json.dumps(steps))


if __name__ == "__main__":
    main(sys.argv[1:])
