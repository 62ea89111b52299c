"""The peer of our training: transformers' Trainer over its own GPT-2, as its documentation has it.

    python -m benchmarks.trainer_peer RECIPE --tokens FILE --vocab N --steps N --out FILE

Shape, batch, optimizer and schedule are the recipe's. Configured for speed where that changes no result:
fused AdamW, no logging, no saving, no worker processes that would take cores from the training.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.model_pairs import Shape, their_model
from cluster.recipe import load_recipe
from llm.settings import ModelSettings, PretrainSettings
from llm.train.schedule import learning_rate


class Windows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Neighbouring windows of a flat file of tokens; the Trainer shuffles them."""

    def __init__(self, tokens: npt.NDArray[np.uint16], length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        start = number * self.length
        ids = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
        return {"input_ids": ids, "labels": ids}  # the model itself shifts them


def train(
    tokens: npt.NDArray[np.uint16],
    model: ModelSettings,
    vocab_size: int,
    settings: PretrainSettings,
    compiled: bool,
) -> list[float]:
    """When each step ended, as time.time() has it."""
    import transformers

    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.time())

    torch.manual_seed(settings.seed)
    shape = Shape(
        model.layers, model.width, model.heads, vocab_size, settings.batch, settings.length
    )  # fmt: skip
    theirs = their_model("gpt2", shape)
    optimizer = settings.optimizer
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.dim() >= 2]},
            {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps,
        weight_decay=optimizer.weight_decay, fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: learning_rate(step, settings.steps, 1.0, settings.schedule)
    )
    with tempfile.TemporaryDirectory(prefix="manta-trainer-") as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=settings.steps, per_device_train_batch_size=settings.batch,
            max_grad_norm=optimizer.clip, bf16=settings.precision == "bf16", torch_compile=compiled,
            use_cpu=not torch.cuda.is_available(), dataloader_num_workers=0, seed=settings.seed,
            logging_strategy="no", save_strategy="no", eval_strategy="no", report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(
            model=theirs, args=arguments, train_dataset=Windows(tokens, settings.length),
            optimizers=(adamw, schedule), callbacks=[Clock()],
        ).train()  # fmt: skip
    return times


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer_peer", description=__doc__)
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("--tokens", required=True, help="flat file of uint16 tokens")
    parser.add_argument("--vocab", type=int, required=True, help="entries of the tokenizer")
    parser.add_argument("--steps", type=int, required=True, help="updates")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch_compile of the Trainer")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", required=True, help="JSON file for the times of the steps' ends")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    overrides = {"pretrain.steps": str(options.steps), "pretrain.precision": options.precision}
    recipe = load_recipe(options.recipe, overrides)
    tokens = np.memmap(options.tokens, "<u2", "r")
    times = train(
        tokens, recipe.need(ModelSettings), options.vocab, recipe.need(PretrainSettings), options.compile
    )
    Path(options.out).write_text(json.dumps(times))


if __name__ == "__main__":
    main(sys.argv[1:])
