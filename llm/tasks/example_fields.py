"""One record to a checked example: what each kind of task wants of its fields.

A record that is no example raises `BadExample`, with a reason to count it by and a detail that names the
field.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_jobs.hashes import h64
from llm.finetune_settings import DataSettings, TaskKind
from llm.tasks.task_data import Row


class BadExample(Exception):
    """A record that gives no example."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Answers(NamedTuple):
    """The right answers of a question, and at which character each begins; none: it has no answer there."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


Label = str | tuple[str, ...] | float | Answers | None


@dataclass(frozen=True)
class Example:
    """One example. `texts`: a text, or a pair; a context with its question; the words of a text."""

    place: str
    texts: tuple[str, ...]
    label: Label = None
    """A class; classes; a number; a tag for each word; the answers; None of an instruction."""
    messages: tuple[Message, ...] = ()
    group: str | None = None

    @functools.cached_property
    def content(self) -> int:
        """A hash of all that the model is to read, without the label: equal for equal examples."""
        parts = [part for message in self.messages for part in message]
        return h64("example", len(self.texts), *self.texts, *parts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the example has, each once, of tasks that have classes."""
        if isinstance(self.label, str):
            return (self.label,)
        if isinstance(self.label, tuple) and not isinstance(self.label, Answers):
            return tuple(dict.fromkeys(self.label))
        return ()


def fields_of(data: DataSettings, kind: TaskKind) -> dict[str, str]:
    """What is wanted of a record: the setting to the field's name, as the kind has its defaults."""
    if kind == "instruction":
        wanted = (
            {"messages": data.messages} if data.messages else {"prompt": data.prompt, "answer": data.answer}
        )
    elif kind == "token_classification":
        wanted = {"words": data.words, "label": data.label}
    elif kind == "question_answering":
        label = "answers" if data.label == "label" else data.label
        wanted = {"text": data.text, "second": data.second or "question", "label": label}
    else:
        wanted = {"text": data.text, "label": data.label}
        if data.second:
            wanted["second"] = data.second
    if data.group:
        wanted["group"] = data.group
    return wanted


def read_example(row: Row, data: DataSettings, kind: TaskKind) -> Example:
    """The example of a record. Raises BadExample."""
    fields = _Fields(row, fields_of(data, kind))
    group = None if data.group is None else _class_name(fields.value("group"), fields.name("group"))
    if kind == "instruction":
        if data.messages:
            messages = _messages(fields.parts("messages"), fields.name("messages"))
        else:
            messages = (Message("user", fields.text("prompt")), Message("assistant", fields.text("answer")))
        return Example(row.place, (), None, messages, group)
    if kind == "token_classification":
        words, tags = _words(fields)
        return Example(row.place, words, tags, group=group)
    names = ("text", "second") if "second" in fields.wanted else ("text",)
    texts = tuple(fields.text(name) for name in names)
    label: Label
    match kind:
        case "classification":
            label = _class_name(fields.value("label"), fields.name("label"))
        case "multi_label":
            found = [_class_name(part, fields.name("label")) for part in fields.parts("label")]
            label = tuple(sorted(set(found)))
        case "regression":
            label = _number(fields.value("label"), fields.name("label"), row.is_text)
        case _:
            label = _answers(fields.parts("label", dict), texts[0], fields.name("label"))
    return Example(row.place, texts, label, group=group)


class _Fields:
    """The wanted fields of one record, by what they are for."""

    def __init__(self, row: Row, wanted: dict[str, str]) -> None:
        self.row, self.wanted = row, wanted

    def name(self, what: str) -> str:
        return self.wanted[what]

    def value(self, what: str) -> Any:
        """The value; BadExample where there is none, with the nearest name that there is."""
        name, row = self.wanted[what], self.row
        value = row.values.get(name)
        if value is not None:
            return value
        if name in row.names:
            raise BadExample("null_field", f"field '{name}' is null")
        near = difflib.get_close_matches(name, row.names, n=1, cutoff=0.5)
        hint = (
            f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(map(repr, row.names)) or 'none'}"
        )
        raise BadExample("missing_field", f"no field '{name}' (finetune.data.{what}); {hint}")

    def text(self, what: str) -> str:
        """A text that is more than blanks."""
        name, value = self.wanted[what], self.value(what)
        if not isinstance(value, str):
            raise BadExample("not_text", f"field '{name}' is {_kind_of(value)}, and a text is wanted")
        return _checked_text(value, f"field '{name}'")

    def parts(self, what: str, *others: type) -> Any:
        """A list, or one of `others`; in CSV it is written as JSON."""
        name, value = self.wanted[what], self.value(what)
        if self.row.is_text:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise BadExample(
                    "not_a_list", f"field '{name}' is {value[:40]!r}, and a list written as JSON is wanted"
                ) from None
        if not isinstance(value, (list, *others)):
            raise BadExample("not_a_list", f"field '{name}' is {_kind_of(value)}, and a list is wanted")
        return value

    def split(self, what: str) -> list[Any]:
        """A list; in CSV also what stands between blanks."""
        value = self.value(what)
        if self.row.is_text and not str(value).lstrip().startswith("["):
            return str(value).split()
        parts: list[Any] = self.parts(what)
        return parts


def _checked_text(value: str, what: str) -> str:
    """A text that can be tokenized: more than blanks, and UTF-8."""
    if not value.strip():
        raise BadExample("empty_text", f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadExample(
            "lone_surrogate", f"{what} has half of a surrogate pair, which no UTF-8 text can hold"
        ) from None
    return value


def _class_name(value: Any, field: str) -> str:
    """A class as text: text as it is, whole numbers in digits, true and false as JSON has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise BadExample(
            "label_type", f"field '{field}' is {_kind_of(value)}, and a class is text or a whole number"
        )
    if not value.strip():
        raise BadExample("empty_label", f"field '{field}' is empty")
    return _checked_text(value, f"field '{field}'")


def _number(value: Any, field: str, is_text: bool) -> float:
    if is_text:
        try:
            value = float(value)
        except ValueError:
            raise BadExample(
                "label_type", f"field '{field}' is {value[:40]!r}, and a number is wanted"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadExample("label_type", f"field '{field}' is {_kind_of(value)}, and a number is wanted")
    # A micro-batch has it in 32 bits, where a larger one would be infinite.
    if not math.isfinite(value) or abs(value) > 3.4e38:
        raise BadExample("not_finite", f"field '{field}' is {value}, and a finite number is wanted")
    return float(value)


def _words(fields: _Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words, tags = fields.split("words"), fields.split("label")
    name = fields.name("words")
    if not words:
        raise BadExample("empty_text", f"field '{name}' has no words")
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise BadExample("not_text", f"word {number + 1} of '{name}' is {_kind_of(word)}")
        _checked_text(word, f"word {number + 1} of '{name}'")
    if len(words) != len(tags):
        raise BadExample(
            "tags_do_not_match", f"{len(words)} words in '{name}' and {len(tags)} tags in "
            f"'{fields.name('label')}': one tag for each word"
        )  # fmt: skip
    return tuple(words), tuple(_class_name(tag, fields.name("label")) for tag in tags)


def _answers(value: Any, context: str, field: str) -> Answers:
    """SQuAD's two forms: {text: [...], answer_start: [...]}, or a list of {text, answer_start}."""
    if isinstance(value, dict):
        if missing := [name for name in ("text", "answer_start") if not isinstance(value.get(name), list)]:
            raise BadExample("answers_shape", f"field '{field}' has no list '{missing[0]}'")
        texts, starts = value["text"], value["answer_start"]
        if len(texts) != len(starts):
            raise BadExample(
                "answers_shape", f"field '{field}': {len(texts)} of text, {len(starts)} of answer_start"
            )
    else:
        if not all(isinstance(part, dict) and {"text", "answer_start"} <= part.keys() for part in value):
            raise BadExample("answers_shape", f"field '{field}': each answer has text and answer_start")
        texts, starts = [part["text"] for part in value], [part["answer_start"] for part in value]
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise BadExample("answers_shape", f"field '{field}': text is a text, answer_start a whole number")
        if not text.strip():
            raise BadExample("empty_text", f"an answer of '{field}' is empty; without one the list is empty")
        if start < 0 or context[start : start + len(text)] != text:
            at = context.find(text)
            hint = "it stands nowhere there" if at < 0 else f"it stands at {at}"
            raise BadExample(
                "answer_not_there", f"answer {_short(text)} does not stand at character {start} of the "
                f"context, {_short(context[max(0, start) : max(0, start) + len(text)])} does; {hint}"
            )  # fmt: skip
    return Answers(tuple(texts), tuple(starts))


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    messages = []
    for number, part in enumerate(value, 1):
        what = f"message {number} of '{field}'"
        if not isinstance(part, dict) or not {"role", "content"} <= part.keys():
            raise BadExample("message_shape", f"{what} is no object with role and content")
        if more := sorted(name for name in part.keys() - {"role", "content"} if part[name] is not None):
            raise BadExample("message_shape", f"{what} has '{more[0]}': only role and content are read")
        role, content = part["role"], part["content"]
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadExample("message_shape", f"{what}: role and content are texts")
        messages.append(Message(_checked_text(role, f"role of {what}"), _checked_text(content, what)))
    if not messages:
        raise BadExample("empty_text", f"field '{field}' has no messages")
    if messages[-1].role != "assistant":
        raise BadExample(
            "no_answer", f"the last message of '{field}' is of {messages[-1].role!r}, not of 'assistant'"
        )
    return tuple(messages)


def _kind_of(value: Any) -> str:
    """What a value is, for a message."""
    kinds: Sequence[tuple[type, str]] = (
        (bool, "true or false"), (int, "a number"), (float, "a number"), (str, "a text"), (list, "a list"),
        (dict, "an object"),
    )  # fmt: skip
    name = next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)
    return f"{name} ({_short(value)})" if isinstance(value, bool | int | float | str) else name


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
