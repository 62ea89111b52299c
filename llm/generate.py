"""Write on with a trained GPT, or fill the masks with a BERT: `python -m llm.generate RUN --prompt TEXT`.

A GPT of a corpus of images draws: `python -m llm.generate RUN --out FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import UserError, run_command
from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.evaluation.subject import context_of, never_written, text_start
from llm.loading import Loaded, load
from llm.model.bert import BERT
from llm.model.drawing import draw, write_images
from llm.model.filling import Filling, fill
from llm.model.generation import write
from llm.model.gpt import GPT
from llm.model.sampling import Sampling
from llm.model.task_model import TaskModel
from llm.tasks.chat import Chat
from llm.tasks.example_fields import BadExample, Message

MASK = "[MASK]"
ROWS = 16  # prompts that are written on at once
GPT_FLAGS = ("tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "stop")
BERT_FLAGS = ("top",)
TEXT_FLAGS = ("prompt", "prompts", "tokens", "stop", "top")  # of no use where images are drawn
IMAGES = 16


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    if options.out is not None:
        return _draw(options)
    if options.images is not None:
        raise UserError("--images: says how many images are drawn, and needs --out FOLDER for them")
    prompts = _prompts(options)
    if options.top is not None and options.top < 1:
        raise UserError(f"--top must be at least 1, it is {options.top}")
    sampling = _sampling(options)
    loaded = load(options.run)
    if isinstance(loaded.tokenizer, PixelTokenizer):
        raise UserError(f"{options.run}: draws images and writes no text: give --out FOLDER, and no prompt")
    if isinstance(loaded.model, TaskModel):
        raise UserError(
            f"{options.run}: was fine-tuned for {loaded.model.task.kind}, and writes no text; llm.evaluate "
            "measures it"
        )
    kind, others = ("GPT", BERT_FLAGS) if isinstance(loaded.model, GPT) else ("BERT", GPT_FLAGS)
    if unfit := [_flag(name) for name in others if getattr(options, name) is not None]:
        raise UserError(
            f"{', '.join(unfit)}: {options.run} is a {kind}, which has no use for it: leave it out"
        )
    if isinstance(loaded.model, GPT):
        _write(loaded, loaded.model, prompts, sampling, options.stop or [], options.json)
    else:
        _fill(loaded, loaded.model, prompts, options.top or 5, options.json)
    return 0


def _draw(options: argparse.Namespace) -> int:
    """Draw images with a GPT that was trained on some, and print where they are."""
    if unfit := [_flag(name) for name in TEXT_FLAGS if getattr(options, name) is not None]:
        raise UserError(f"{', '.join(unfit)}: of no use with --out, which draws images: leave it out")
    count = IMAGES if options.images is None else options.images
    if count < 1:
        raise UserError(f"--images must be at least 1, it is {count}")
    # All that the model knows by default: a pixel that it finds unlikely is part of what it learned.
    sampling = _sampling(options, temperature=1.0, top_k=None)
    loaded = load(options.run)
    tokenizer, model = loaded.tokenizer, loaded.model
    if not isinstance(tokenizer, PixelTokenizer) or not isinstance(model, GPT):
        raise UserError(f"--out: {options.run} is no GPT of images: give --prompt TEXT instead")
    images = list(draw(model, tokenizer, count, sampling, context_of(loaded)))
    files = [str(file) for file in write_images(images, options.out)]
    if options.json:
        _show(_json({"files": files, "images": count, "step": loaded.step}) + "\n")
    else:
        _show(f"{files[-1]}: {count} images of {tokenizer.size[0]} x {tokenizer.size[1]} pixels\n")
    return 0


def _write(
    loaded: Loaded, model: GPT, prompts: list[str], sampling: Sampling, stops: list[str], as_json: bool
) -> None:
    """Print what the model adds to each prompt: as it comes for one prompt, else batch by batch."""
    tokenizer, context = loaded.tokenizer, context_of(loaded)
    rows = [start_of(loaded, tokenizer, prompt) for prompt in prompts]
    _check_lengths(prompts, [len(row) for row in rows], context)
    sampling = replace(sampling, stop=tokenizer.eos_id, forbidden=tuple(never_written(loaded)))
    stream = len(prompts) == 1 and not as_json
    between = "\n" if _answers(loaded) else ""
    if stream:
        _show(prompts[0] + between)
    for first in range(0, len(rows), ROWS):
        texts = [prompt + between for prompt in prompts[first : first + ROWS]]
        for row, piece in write(
            model, tokenizer, rows[first : first + ROWS], sampling, context, stops, first
        ):
            texts[row] += piece
            if stream:
                _show(piece)
        for prompt, text in zip(prompts[first : first + ROWS], texts, strict=True):
            if as_json:
                _show(_json({"prompt": prompt, "text": text, "step": loaded.step}) + "\n")
            elif not stream:
                _show(f"{text}\n\n")
    if stream:
        _show("\n")


def start_of(loaded: Loaded, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids that a text begins with: after the eos of the text before, as training rows do.

    An imported model says itself with what. A row is never empty. Where instructions were learned the prompt
    is a user's message, written as they were.
    """
    if _answers(loaded):
        chat = Chat(loaded.settings["finetune"]["task"]["chat_template"], tokenizer, text_start(loaded))
        try:
            return chat.prompt([Message("user", prompt)])
        except BadExample as problem:
            raise UserError(f"--prompt {_short(prompt)}: {problem.detail}") from None
    return [*text_start(loaded), *(int(token) for token in tokenizer.encode(prompt))] or [tokenizer.eos_id]


def _answers(loaded: Loaded) -> bool:
    """Whether it has learned to answer what it is asked."""
    kind: str | None = loaded.settings.get("finetune", {}).get("task", {}).get("kind")
    return kind == "instruction"


def _fill(loaded: Loaded, model: BERT, prompts: list[str], top: int, as_json: bool) -> None:
    """Print what can stand for each [MASK], and the text with the likeliest of each."""
    tokenizer = loaded.tokenizer
    if any(name.startswith("lm_") for name in loaded.settings.get("fresh", ())):
        raise UserError(
            f"{loaded.checkpoint}: came without an output layer for masks, so its guesses would be random: "
            "train it first, with pretrain.start_from"
        )
    if without := [prompt for prompt in prompts if MASK not in prompt]:
        raise UserError(
            f"--prompt {_short(without[0])}: has no {MASK}, and a BERT writes nothing else: put {MASK} where "
            "it is to fill a token in"
        )
    rows = [masked_row(tokenizer, prompt) for prompt in prompts]
    _check_lengths(prompts, [len(row) for row in rows], context_of(loaded))
    forbidden = {*tokenizer.specials.values(), *range(tokenizer.vocab_size, model.vocab_size)}
    for prompt, row in zip(prompts, rows, strict=True):
        fillings = fill(model, row, tokenizer.mask_id, top, sorted(forbidden))
        text = filled_text(prompt, [tokenizer.decode([f.candidates[0][0]]) for f in fillings])
        if as_json:
            masks = [_mask_json(tokenizer, filling) for filling in fillings]
            _show(_json({"prompt": prompt, "text": text, "masks": masks, "step": loaded.step}) + "\n")
            continue
        lines = [text]
        for number, filling in enumerate(fillings, 1):
            found = (f"{tokenizer.decode([token])!r} {share:.1%}" for token, share in filling.candidates)
            lines.append(f"  {MASK} {number}: {', '.join(found)}")
        _show("\n".join(lines) + "\n")


def masked_row(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """[CLS] text [SEP]; each literal [MASK] is a mask token, and the text between is encoded by itself."""
    row = [tokenizer.cls_id]
    *parts, last = prompt.split(MASK)
    for part in parts:
        row += [*_before_mask(tokenizer, part), tokenizer.mask_id]
    return [*row, *(int(token) for token in tokenizer.encode(last)), tokenizer.sep_id]


def _before_mask(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of what stands before a mask, without the last blank, which belongs to the mask.

    For tokens of words carry the blank before them, and a hidden word took it along. Where the blank ends the
    indentation of a line, which is one token with the line's end, it stays.
    """
    ids = [int(token) for token in tokenizer.encode(text)]
    if not text.endswith(" ") or (ids and b"\n" in tokenizer.piece_bytes(ids[-1])):
        return ids
    return [int(token) for token in tokenizer.encode(text[:-1])]


def filled_text(prompt: str, fillings: Sequence[str]) -> str:
    """The prompt with a text for each [MASK]. The rest stays as it was written.

    A filling's own blank is left out where one stands before the mask already, and at the very beginning.
    """
    *parts, last = prompt.split(MASK)
    text = ""
    for part, filling in zip(parts, fillings, strict=True):
        text += part
        text += filling.removeprefix(" ") if not text or part.endswith(" ") else filling
    return text + last


def _mask_json(tokenizer: Tokenizer, filling: Filling) -> dict[str, Any]:
    return {
        "position": filling.position,
        "candidates": [
            {"token": token, "text": tokenizer.decode([token]), "probability": share}
            for token, share in filling.candidates
        ],
    }


def _check_lengths(prompts: list[str], lengths: list[int], context: int) -> None:
    long = [(prompt, length) for prompt, length in zip(prompts, lengths, strict=True) if length > context]
    if long:
        raise UserError(
            "\n".join(
                f"--prompt {_short(prompt)}: {length:,} tokens long with its specials, the model sees "
                f"{context:,}: shorten it by {length - context:,} tokens"
                for prompt, length in long
            )
        )


def _prompts(options: argparse.Namespace) -> list[str]:
    """Those of --prompt, then those of the file."""
    prompts: list[str] = list(options.prompt or [])
    if options.prompts is not None:
        try:
            text = Path(options.prompts).read_bytes().decode("utf-8").replace("\r\n", "\n")
        except OSError as error:
            raise UserError(f"--prompts {options.prompts}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"--prompts {options.prompts}: not UTF-8 at byte {error.start}") from None
        prompts += text.removesuffix("\n").split("\n") if text else []
    if not prompts:
        raise UserError(
            "there is no prompt: give --prompt TEXT, or --prompts FILE with one a line; or --out FOLDER, if "
            "the model draws images"
        )
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"--prompt {_short(prompt)}: not UTF-8") from None
    return prompts


def _sampling(options: argparse.Namespace, **defaults: Any) -> Sampling:
    """Of the flags that are given, over these defaults. --stop is text and no part of it."""
    given = {name: getattr(options, name) for name in GPT_FLAGS if name != "stop"}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("top_k") == 0:
        given["top_k"] = None
    for stop in options.stop or []:
        if not stop:
            raise UserError("--stop is an empty text: leave it out")
        try:
            stop.encode()
        except UnicodeEncodeError:
            raise UserError(f"--stop {_short(stop)}: not UTF-8") from None
    try:
        return Sampling(**defaults | given)
    except ValueError as error:
        problems = (problem.split(" ", 1) for problem in str(error).split("; "))
        raise UserError("; ".join(f"{_flag(name)} {rest}" for name, rest in problems)) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _json(value: dict[str, Any]) -> str:
    """On one line for every reader: Python's, too, ends lines at U+0085, U+2028 and U+2029."""
    text = json.dumps(value, ensure_ascii=False)
    return text.translate({code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)})


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.generate", description=__doc__, allow_abbrev=False)
    add, of = parser.add_argument, Sampling()
    add(
        "run",
        metavar="RUN",
        help="a run folder, one of its checkpoints, or an imported model; a path or s3://bucket/name",
    )
    add(
        "--prompt", action="append", metavar="TEXT",
        help=f"the text to go on from, or with a {MASK} for each token to fill in; again for more texts",
    )  # fmt: skip
    add("--prompts", metavar="FILE", help="a text file with a prompt in each line")
    add("--json", action="store_true", help="one JSON object on stdout, a line for each prompt")
    gpt = parser.add_argument_group("with a GPT").add_argument
    gpt("--tokens", type=int, help=f"most tokens to write (default {of.tokens})")
    gpt("--temperature", type=float, help=f"0: always the likeliest (default {of.temperature})")
    gpt("--top-k", type=int, help=f"draw from so many likeliest tokens; 0: from all (default {of.top_k})")
    gpt(
        "--top-p", type=float,
        help=f"draw from the likeliest that have this probability together (default {of.top_p:g}: all)",
    )  # fmt: skip
    gpt(
        "--repetition-penalty", type=float,
        help=f"above 1: less of what is in the text already (default {of.repetition_penalty:g}: none)",
    )  # fmt: skip
    gpt("--seed", type=int, help=f"same seed, same text (default {of.seed})")
    gpt("--stop", action="append", metavar="TEXT", help="end before this text; again for more texts")
    images = parser.add_argument_group("with a GPT of images").add_argument
    images("--out", metavar="PATH", help="folder for the images and a sheet of all; x.png: the sheet alone")
    images("--images", type=int, help=f"how many to draw (default {IMAGES})")
    bert = parser.add_argument_group("with a BERT").add_argument
    bert("--top", type=int, help="candidates that are shown for each mask (default 5)")
    return parser


if __name__ == "__main__":
    run_command(main)
