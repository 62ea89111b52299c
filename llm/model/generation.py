"""Ids to more ids, and those to text: a causal model writes on."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from data_jobs.tokens.tokenizer import Tokenizer
from llm.model.cache import KeyValues
from llm.model.gpt import GPT
from llm.model.packed import packed
from llm.model.sampling import Sampler, Sampling


def first_shown(length: int, context: int) -> int:
    """Where in a text of so many ids the model begins to read.

    A text that outgrows the context loses half a context of its oldest ids at once, not one id a step: with
    each loss the positions of all others change, and what is known of them must be computed anew.
    """
    half = context // 2
    return max(-(-(length - context) // half), 0) * half


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    context: int | None = None,
    ended: set[int] | None = None,
    first: int = 0,
) -> Iterator[tuple[int, int]]:
    """Yield (row, id) as they are drawn, row after row of each step, until all rows have ended.

    `context`: most ids that are shown to the model (default: all that it can see), by `first_shown`. Rows
    that the caller adds to `ended` write no further. `first`: number of the first row, for its draws.
    What a row says does not depend on the others, but for the rounding of products.
    """
    ended = set() if ended is None else ended
    reader = Reader(model, prompts, context or model.settings.context)
    sampler = Sampler(sampling, prompts, first)
    rows = list(range(len(prompts)))
    for _ in range(sampling.tokens):
        drawn = sampler.draw(reader.logits())
        for row, token in zip(rows, drawn):
            if token == sampling.stop:
                ended.add(row)
            elif row not in ended:
                yield row, token
        if not ended.isdisjoint(rows):
            alive = [at for at, row in enumerate(rows) if row not in ended]
            if not alive:
                return
            reader.keep(alive)
            sampler.keep(alive)
            rows, drawn = [rows[at] for at in alive], [drawn[at] for at in alive]
        reader.append(drawn)


def generate_uncached(
    forward: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    sampling: Sampling,
    context: int,
) -> Iterator[int]:
    """The same for one prompt and a model of which only `forward` is known: ids [1, T] to logits [1, T, V].

    Each step reads the whole text anew. With ZeRO 3 all workers call this together.
    """
    ids, sampler = list(prompt), Sampler(sampling, [prompt])
    for _ in range(sampling.tokens):
        shown = torch.tensor([ids[first_shown(len(ids), context) :]])
        token = sampler.draw(forward(shown)[:, -1])[0]
        if token == sampling.stop:
            return
        ids.append(token)
        yield token


class Reader:
    """Rows of ids that grow, and what the model says comes after each.

    All rows share one column of the caches a step: a shorter row stands to the right, behind padding that is
    a document of its own, so that attention and positions stay inside the row for every kind of position.
    Where the columns reach the context, the ids that are still shown are read anew.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], context: int) -> None:
        if not model.settings.causal or not prompts or not all(prompts):
            raise ValueError("only a causal model writes on, and each row needs an id to begin with")
        self.context = min(context, model.settings.context)
        self.rows = [list(prompt) for prompt in prompts]
        self.device = next(model.parameters()).device
        self.caches: list[KeyValues] = []
        self.documents: Tensor | None = None  # [B, context], 0: padding
        with torch.inference_mode():
            self.model = packed(model, len(prompts))

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """[B, V] of the id after each row's last."""
        past = self.caches[0].length if self.caches else self.context
        if past >= self.context:
            return self._read()
        new = torch.tensor([[row[-1]] for row in self.rows], device=self.device)
        documents = None if self.documents is None else self.documents[:, : past + 1]
        hidden = self.model.hidden(new, documents, None, self.caches, past)
        return self.model.lm_head(hidden)[:, -1]

    def append(self, tokens: Sequence[int]) -> None:
        """One id for each row."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Forget all but these rows."""
        self.rows = [self.rows[row] for row in rows]
        chosen = torch.tensor(rows, device=self.device)
        for cache in self.caches:
            cache.keep(chosen)
        if self.documents is not None:
            self.documents = self.documents[chosen]

    def _read(self) -> Tensor:
        shown = [row[first_shown(len(row), self.context) :] for row in self.rows]
        columns = max(map(len, shown))
        ids = torch.tensor([[0] * (columns - len(row)) + row for row in shown], device=self.device)
        self.documents = documents = None
        if any(len(row) < columns for row in shown):
            starts = torch.tensor([columns - len(row) for row in shown], device=self.device)
            self.documents = (torch.arange(self.context, device=self.device) >= starts[:, None]).long()
            documents = self.documents[:, :columns]
        self.caches = [KeyValues(self.context) for _ in range(self.model.settings.layers)]
        hidden = self.model.hidden(ids, documents, None, self.caches)
        return self.model.lm_head(hidden[:, -1:])[:, -1]


class TextStream:
    """Bytes of tokens to text that can be shown: whole characters, nothing of a stop string.

    The stop string that is complete first ends the text, and is not part of it; whether it came in one token
    or in many is all the same.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop.encode() for stop in stops if stop]
        self._waiting = b""  # what may become a stop string
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.stopped = False

    def push(self, data: bytes) -> str:
        """The text that is certain now."""
        if self.stopped:
            return ""
        data = self._waiting + data
        found = [(at + len(stop), at) for stop in self._stops if (at := data.find(stop)) >= 0]
        if found:
            self.stopped, self._waiting = True, b""
            return self._decode(data[: min(found)[1]], True)
        sure = len(data) - max((_overlap(data, stop) for stop in self._stops), default=0)
        self._waiting = data[sure:]
        return self._decode(data[:sure])

    def finish(self) -> str:
        """What is left when no more comes; a character that was cut becomes U+FFFD."""
        waiting, self._waiting = self._waiting, b""
        return self._decode(waiting, True)


def write(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    context: int | None = None,
    stops: Sequence[str] = (),
    first: int = 0,
) -> Iterator[tuple[int, str]]:
    """Yield (row, text) as `generate` goes on: pieces of what each row adds to its prompt."""
    streams = [TextStream(stops) for _ in prompts]
    ended: set[int] = set()
    for row, token in generate(model, prompts, sampling, context, ended, first):
        text = streams[row].push(tokenizer.piece_bytes(token))
        if streams[row].stopped:
            ended.add(row)
        if text:
            yield row, text
    for row, stream in enumerate(streams):
        if rest := stream.finish():
            yield row, rest


def _overlap(data: bytes, stop: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of the stop string."""
    sizes = range(min(len(stop) - 1, len(data)), 0, -1)
    return next((size for size in sizes if data.endswith(stop[:size])), 0)
