"""A model of ours as one of EleutherAI's lm-evaluation-harness (the package lm_eval, an extra).

Its tasks ask for likelihoods of continuations, of whole texts, or for text that is written. Rows are made as
its backend for Hugging Face models makes them of the exported model: a text begins with what our texts begin
with, and blanks between a context and its continuation belong to the latter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from cluster.errors import RunError, UserError
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.evaluation.likelihood import Likelihood, continuations, pseudo_likelihoods, windows
from llm.evaluation.subject import Subject, context_of, never_written, text_start
from llm.model.bert import BERT
from llm.model.generation import write
from llm.model.gpt import GPT
from llm.model.sampling import Sampling

DRAWN = {"temperature", "top_k", "top_p", "repetition_penalty"}
KNOWN = {*DRAWN, "do_sample", "until", "max_gen_toks"}
MOST_WRITTEN = 256  # tokens, where a task does not say


def import_harness() -> Any:
    """lm_eval, without a way to the network. UserError where it is not installed."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")
    try:
        import lm_eval
        import lm_eval.api.model
        import lm_eval.evaluator
        import lm_eval.models.utils
        import lm_eval.tasks
    except ImportError as error:
        raise UserError(
            f"lm-evaluation-harness is not installed ({error}): run `make setup EXTRAS=dev,harness`"
        ) from None
    return lm_eval


def make_lm(subject: Subject, batch: int = 16) -> Any:
    """An `lm_eval.api.model.LM` of a GPT or a BERT. UserError where the model gives no likelihood of text."""
    harness = import_harness()
    model, tokenizer = subject.model, subject.tokenizer
    if isinstance(tokenizer, PixelTokenizer):
        raise UserError("the harness is for models of texts, and this one is of images")
    if not isinstance(model, GPT | BERT):
        raise UserError(
            "this model has the head of a task, and says nothing of the likelihood of a text: measure it by "
            "llm.evaluate"
        )
    if any(name.startswith("lm_") for name in subject.settings.get("fresh", ())):
        raise UserError(
            "this model came without an output layer for tokens, so its guesses would be random: train it "
            "first, with pretrain.start_from"
        )
    scorer = _OfGPT(subject, model, batch) if isinstance(model, GPT) else _OfBERT(subject, model, batch)

    class MantaLM(harness.api.model.TemplateLM):  # type: ignore[name-defined]
        """Texts to ids, and questions of the harness to those of ours."""

        @property
        def eot_token_id(self) -> int:
            return tokenizer.eos_id

        @property
        def tokenizer_name(self) -> str:
            return tokenizer.fingerprint

        @property
        def prefix_token_id(self) -> int:
            return scorer.prefix

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            ids: list[int] = tokenizer.encode(string).tolist()
            return ids if add_special_tokens is False else [*scorer.start, *ids]

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            found = scorer.likelihoods([(before, asked) for _, before, asked in requests])
            return [(each.nats, each.greedy) for each in found]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            """Of each text; each of its tokens is asked for once."""
            return [scorer.whole(tokenizer.encode(request.args[0]).tolist()) for request in requests]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            if not isinstance(model, GPT):
                raise UserError(
                    "the task wants text to be written, and a bert writes none: take tasks of likelihoods "
                    "(output_type multiple_choice or loglikelihood), or a gpt"
                )
            normalize = harness.models.utils.normalize_gen_kwargs
            return written(subject, model, [request.args for request in requests], batch, normalize)

    return MantaLM()


class _OfGPT:
    """Likelihoods by a GPT."""

    def __init__(self, subject: Subject, model: GPT, batch: int) -> None:
        self.model, self.batch, self.context = model, batch, context_of(subject)
        self.start = text_start(subject)
        self.prefix = self.start[-1] if self.start else subject.tokenizer.eos_id

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """In the order of the pairs; those of like length go through together."""
        order = sorted(range(len(pairs)), key=lambda at: -len(pairs[at][0]) - len(pairs[at][1]))
        found = _asked(continuations(self.model, [pairs[at] for at in order], self.context, self.batch))
        by_place = dict(zip(order, found, strict=True))
        return [by_place[at] for at in range(len(pairs))]

    def whole(self, tokens: Sequence[int]) -> float:
        """Of a text: log p(token | prefix, all before it), as far back as the context reaches."""
        return sum(each.nats for each in self.likelihoods(list(windows(tokens, self.prefix, self.context))))


class _OfBERT:
    """Pseudo-likelihoods by a BERT."""

    def __init__(self, subject: Subject, model: BERT, batch: int) -> None:
        self.model, self.batch, self.context = model, batch, context_of(subject)
        self.tokenizer = subject.tokenizer
        self.start, self.prefix = [self.tokenizer.cls_id], self.tokenizer.cls_id

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """In the order of the pairs."""
        mask, sep = self.tokenizer.mask_id, self.tokenizer.sep_id
        return _asked(pseudo_likelihoods(self.model, pairs, mask, sep, self.context, self.batch))

    def whole(self, tokens: Sequence[int]) -> float:
        """Of a text, in pieces that fit into a row."""
        room = self.context - 2
        parts = [tokens[first : first + room] for first in range(0, len(tokens), room)]
        return sum(each.nats for each in self.likelihoods([(self.start, part) for part in parts]))


def _asked(found: Any) -> list[Likelihood]:
    try:
        return list(found)
    except ValueError as error:
        raise RunError(f"the harness asks for what the model cannot answer: {error}") from None


def written(
    subject: Subject,
    model: GPT,
    requests: Sequence[tuple[str, dict[str, Any]]],
    batch: int,
    normalize: Any = lambda given, most: given,
) -> list[str]:
    """What a GPT writes after each context, by the task's own settings, up to a stop string or the eos."""
    found = [""] * len(requests)
    numbered = sorted(range(len(requests)), key=lambda at: repr(requests[at][1]))
    for _, group in groupby(numbered, key=lambda at: repr(requests[at][1])):
        places = list(group)
        sampling, stops, room = _sampling(subject, normalize(requests[places[0]][1], _most(subject)))
        for first in range(0, len(places), batch):
            some = places[first : first + batch]
            rows = [_before(subject, requests[at][0])[-room:] for at in some]
            for row, piece in write(
                model, subject.tokenizer, rows, sampling, context_of(subject), stops, first
            ):
                found[some[row]] += piece
    return found


def _before(subject: Subject, text: str) -> list[int]:
    return [*text_start(subject), *subject.tokenizer.encode(text).tolist()] or [subject.tokenizer.eos_id]


def _most(subject: Subject) -> int:
    return min(MOST_WRITTEN, context_of(subject) // 2)


def _sampling(subject: Subject, given: dict[str, Any]) -> tuple[Sampling, list[str], int]:
    """How text is drawn, where it ends, and how many tokens of what stands before it are read."""
    if unknown := sorted(name for name in given if name not in KNOWN):
        raise UserError(
            f"the task's generation_kwargs have {', '.join(unknown)}, which generation here does not know; "
            f"it knows {', '.join(sorted(KNOWN))}"
        )
    most, context = int(given["max_gen_toks"]), context_of(subject)
    if not 0 < most < context:
        raise UserError(
            f"the task wants up to {most:,} tokens (generation_kwargs.max_gen_toks), and the model sees "
            f"{context:,} with what stands before them: lower it in the task's file"
        )
    drawn = {name: given[name] for name in DRAWN if given.get(name) is not None}
    drawn["temperature"] = float(drawn.get("temperature", 1.0)) if given.get("do_sample") else 0.0
    drawn["top_k"] = drawn.get("top_k") or None
    try:
        sampling = Sampling(
            tokens=most, stop=subject.tokenizer.eos_id, forbidden=tuple(never_written(subject)), **drawn
        )
    except ValueError as error:
        raise UserError(f"the task's generation_kwargs: {error}") from None
    return sampling, [stop for stop in given.get("until") or [] if stop], context - most
