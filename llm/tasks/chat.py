"""Conversations to tokens by a Jinja template, and which of the tokens are answers.

The template is one of Hugging Face's (`messages`, `add_generation_prompt`, `bos_token`, `eos_token`). It is
run for the messages up to each answer, with the start of the answer asked for, and with the answer: what the
second text has more than the first is the answer. Those pieces are tokenized apart, as they are when text is
generated, so an answer begins and ends at the same tokens in both.

Specials that the template writes are the tokens of this name; in the text of a message they stay characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Ids, Tokenizer
from llm.tasks.example_fields import BadExample, Message

DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # of no meaning in any text, by Unicode


class Piece(NamedTuple):
    """Text, or a special, of a conversation."""

    content: str | int
    is_answer: bool


class Chat:
    """A template for the tokenizer of a model. UserError where the template is none.

    `start`: ids that stand before a text; left out where the template begins with them itself.
    """

    def __init__(self, template: str | None, tokenizer: Tokenizer, start: Sequence[int]) -> None:
        self.tokenizer, self.start = tokenizer, list(start)
        self._specials = {text: token for text, token in tokenizer.special_texts.items() if len(text) > 1}
        names = {token: text for text, token in tokenizer.special_texts.items()}
        self._names = {
            f"{name}_token": names[token] for name, token in tokenizer.specials.items() if token in names
        }
        longest = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        try:
            self._template = _environment().from_string(DEFAULT_TEMPLATE if template is None else template)
        except jinja2.TemplateError as error:
            raise UserError(f"finetune.task.chat_template: is no Jinja template: {error}") from None

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The pieces of a conversation that ends in an answer. Raises BadExample where the template cannot.

        Of an answer that has a special at its end, what the template writes after it is none of the answer.
        The last answer always ends in eos, at which generation stops: the template's, or one more.
        """
        mark = self._mark(messages)
        found: list[Piece] = []
        done = ""
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            asked = self._render(messages[:number], True, mark)
            told = self._render(messages[: number + 1], False, mark)
            if not asked.startswith(done) or not told.startswith(asked):
                raise BadExample(
                    "template_rewrites", "finetune.task.chat_template writes what stands before an "
                    f"answer otherwise once the answer (message {number + 1}) is there, and generation would "
                    "see other text than training: leave out what depends on later messages"
                )  # fmt: skip
            found += [Piece(part, False) for part in self._parts(asked[len(done) :], mark)]
            answer = self._parts(told[len(asked) :], mark)
            ends = [at for at, part in enumerate(answer) if isinstance(part, int)]
            end = ends[-1] + 1 if ends else len(answer)
            found += [Piece(part, at < end) for at, part in enumerate(answer)]
            done = told
        while found and not found[-1].is_answer:
            found.pop()
        if found and found[-1].content != self.tokenizer.eos_id:
            found.append(Piece(self.tokenizer.eos_id, True))
        return found

    def prompt_pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The pieces of a conversation that waits for an answer, cut as training cut them."""
        mark = self._mark(messages)
        found: list[Piece] = []
        done = ""
        for number in [*(n for n, m in enumerate(messages) if m.role == "assistant"), len(messages)]:
            texts = [self._render(messages[:number], True, mark)]
            if number < len(messages):
                texts.append(self._render(messages[: number + 1], False, mark))
            for text in texts:
                if not text.startswith(done):
                    raise BadExample(
                        "template_rewrites", "finetune.task.chat_template rewrites earlier messages"
                    )
                found += [Piece(part, False) for part in self._parts(text[len(done) :], mark)]
                done = text
        return found

    def ids_of(self, pieces: Sequence[Piece], encoded: Iterator[Ids]) -> tuple[list[int], list[bool]]:
        """Ids of a row, and whether each is of an answer; `encoded`: those of the pieces that are texts."""
        ids: list[int] = []
        flags: list[bool] = []
        for piece in pieces:
            some = [piece.content] if isinstance(piece.content, int) else next(encoded).tolist()
            ids += some
            flags += [piece.is_answer] * len(some)
        if ids[: len(self.start)] != self.start:
            ids, flags = self.start + ids, [False] * len(self.start) + flags
        return ids, flags

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the answer to a conversation is to be written. Raises BadExample."""
        pieces = self.prompt_pieces(messages)
        texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
        return self.ids_of(pieces, iter(self.tokenizer.encode_batch(texts)))[0]

    def _mark(self, messages: Sequence[Message]) -> str:
        """A character that stands in no message: put into a special's name there, it keeps it text."""
        texts = "".join(part for message in messages for part in message)
        for sign in _NONCHARACTERS:
            if sign not in texts:
                return sign
        raise BadExample(
            "noncharacters", "a conversation has all of U+FDD0 to U+FDEF, which are no characters"
        )

    def _render(self, messages: Sequence[Message], waits: bool, mark: str) -> str:
        written = [
            {"role": message.role, "content": self._broken(message.content, mark)} for message in messages
        ]
        try:
            return self._template.render(messages=written, add_generation_prompt=waits, **self._names)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BadExample("template_error", f"finetune.task.chat_template: {error}") from None

    def _broken(self, text: str, mark: str) -> str:
        return self._special.sub(lambda hit: f"{hit[0][0]}{mark}{hit[0][1:]}", text)

    def _parts(self, text: str, mark: str) -> list[str | int]:
        """Texts and specials in their order."""
        found: list[str | int] = []
        at = 0
        for hit in self._special.finditer(text):
            found += [text[at : hit.start()], self._specials[hit[0]]]
            at = hit.end()
        found.append(text[at:])
        cleaned = (part.replace(mark, "") if isinstance(part, str) else part for part in found)
        return [part for part in cleaned if part != ""]


def _environment() -> ImmutableSandboxedEnvironment:
    """Where a template runs: without access to Python, and with what those of Hugging Face use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(why: str) -> NoReturn:
    raise jinja2.TemplateError(why)
