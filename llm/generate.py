"""Write text with a trained GPT: `python -m llm.generate RUN --prompt TEXT`."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from cluster.errors import UserError, run_command
from llm.loading import load
from llm.model.generation import generate


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    if (
        options.tokens < 1
        or not options.temperature >= 0
        or (options.top_k is not None and options.top_k < 1)
    ):
        raise UserError("--tokens and --top-k must be at least 1, --temperature at least 0")
    loaded = load(options.run)
    tokenizer, context = loaded.tokenizer, loaded.settings["pretrain"]["length"]  # what it was trained to see
    prompt = [tokenizer.eos_id, *(int(i) for i in tokenizer.encode(options.prompt))]
    if len(prompt) > context:
        raise UserError(f"--prompt is {len(prompt)} tokens long, the model sees {context}: shorten it")
    specials = set(tokenizer.specials.values())
    with torch.no_grad():
        new = generate(
            loaded.model, prompt, options.tokens, context, options.temperature, options.top_k, options.seed,
            stop=tokenizer.eos_id, forbidden=tuple(specials - {tokenizer.eos_id}),
        )  # fmt: skip
        if options.json:
            text = options.prompt + tokenizer.decode(list(new))
            print(
                json.dumps({"prompt": options.prompt, "text": text, "step": loaded.step}, ensure_ascii=False)
            )
            return 0
        sys.stdout.write(options.prompt)
        waiting = b""  # bytes of a character that is not whole yet
        for token in new:
            waiting += tokenizer.piece_bytes(token)
            text, waiting = _whole(waiting)
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write(waiting.decode("utf-8", "replace") + "\n")
    return 0


def _whole(data: bytes) -> tuple[str, bytes]:
    """The characters that are complete, and the at most 3 bytes that may begin the next one."""
    for cut in range(len(data), max(len(data) - 4, -1), -1):
        try:
            return data[:cut].decode(), data[cut:]
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace"), b""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="a run folder or one of its checkpoints")
    parser.add_argument("--prompt", required=True, help="the text to go on from")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to write (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest (default 0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=50, help="draw from so many likeliest tokens (default 50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
