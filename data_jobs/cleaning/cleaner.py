"""Cleaning of one text, by rules, with a count of each kind of change.

Order: wrong decoding is repaired (first, since its traces are control characters), CRLF and CR become LF,
control characters go, invisible characters go, the normalisation form, blanks, private data, spelling. Each
step is a function of the text; a step whose cheap test finds nothing costs that test.

Cleaning twice is cleaning once, but for texts made to break it: what stands around a removed character may
then look like something that an earlier step changes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_jobs.cleaning.clean_settings import CleanSettings

if TYPE_CHECKING:
    from data_jobs.cleaning.signs import Signs

Step = Callable[[str], tuple[str, int]]
"""A text to the changed one, with the number of changes; 0 where it is the same."""

# C0 without tab and newline, DEL, C1, and the two code points that Unicode never assigns.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


@dataclass
class Change:
    """What one kind of change did."""

    documents: int = 0
    count: int = 0
    bytes_added: int = 0
    bytes_removed: int = 0

    def to_json(self) -> dict[str, int]:
        """As a receipt holds it."""
        return dict(vars(self))


class Cleaner:
    """Cleans texts by one set of rules, and counts what it changed."""

    def __init__(self, rules: CleanSettings) -> None:
        self.changes: dict[str, Change] = {}
        """By kind; only kinds that changed something."""
        self._corrections: Callable[[], list[dict[str, Any]]] = list
        self._looked: Signs | None = None
        self._steps = self._steps_of(rules)

    def clean(self, text: str) -> str:
        """The cleaned text; empty where only blanks are left."""
        for kind, step in self._steps:
            changed, count = step(text)
            if count:
                self._count(kind, count, len(text.encode()), len(changed.encode()))
                text = changed
        return "" if text.isspace() else text

    def to_json(self) -> dict[str, Any]:
        """{changes: {kind: {documents, count, bytes_added, bytes_removed}}, corrections: [{before, after,
        count}]}: the latter a sample of the spelling's.
        """
        kinds = {kind: change.to_json() for kind, change in sorted(self.changes.items())}
        return {"changes": kinds, "corrections": self._corrections()}

    def _count(self, kind: str, count: int, before: int, after: int) -> None:
        change = self.changes.setdefault(kind, Change())
        change.documents += 1
        change.count += count
        change.bytes_added += max(0, after - before)
        change.bytes_removed += max(0, before - after)

    def _steps_of(self, rules: CleanSettings) -> list[tuple[str, Step]]:
        """(kind, step) in their order. What a rule needs is imported where a recipe asks for the rule."""
        steps: list[tuple[str, Step]] = []
        if rules.encoding == "repair":
            from data_jobs.cleaning.encoding import repair_encoding

            steps.append(("encoding", repair_encoding))
        if rules.control_characters == "remove":
            steps += [("line_ends", unify_line_ends), ("control_characters", remove_control_characters)]
        if rules.zero_width == "remove":
            from data_jobs.cleaning.invisible import remove_invisible

            steps.append(("zero_width", remove_invisible))
        if rules.form != "none":
            steps.append(("form", normaliser(rules.form)))
        if rules.white_space:
            from data_jobs.cleaning import blanks

            steps += blanks.steps_of(rules.white_space, self._signs())
        if rules.private_data:
            from data_jobs.cleaning import private_data

            steps += private_data.steps_of(rules.private_data, rules.ip_addresses, self._signs())
        if rules.spelling != "none":
            from data_jobs.cleaning.spelling import Speller

            speller = Speller()
            self._corrections = speller.sample
            steps.append(("spelling", speller.correct))
        return steps

    def _signs(self) -> Signs:
        """One for all steps, so that a text is looked over once; made late, because it is compiled."""
        if self._looked is None:
            from data_jobs.cleaning.signs import Signs

            self._looked = Signs()
        return self._looked


def clean_text(text: str, rules: CleanSettings) -> str:
    """One text, cleaned; empty where only blanks are left."""
    return Cleaner(rules).clean(text)


def recorded_rules(values: Mapping[str, Any]) -> CleanSettings:
    """Rules as a manifest or the record of a run holds them. Those that were made before a rule was known do
    not name it, and left texts alone in this: what every later rule does by default.
    """
    return CleanSettings.model_validate(dict(values))


def unify_line_ends(text: str) -> tuple[str, int]:
    """CRLF and CR become LF."""
    count = text.count("\r") if "\r" in text else 0
    return (text.replace("\r\n", "\n").replace("\r", "\n"), count) if count else (text, 0)


def remove_control_characters(text: str) -> tuple[str, int]:
    """Without C0 and C1 but tab and newline, and without the two code points that are no characters."""
    return _CONTROL.subn("", text)


def normaliser(form: Literal["NFC", "NFKC"]) -> Step:
    """The step to a Unicode normalisation form. Count: 1 for a text that was in another one."""

    def normalise(text: str) -> tuple[str, int]:
        # ASCII is in every form, and the quick test of the others reads a text faster than it is made anew.
        if text.isascii() or unicodedata.is_normalized(form, text):
            return text, 0
        return unicodedata.normalize(form, text), 1

    return normalise


def cut_text(text: str, max_bytes: int) -> list[str]:
    """The text in pieces of at most `max_bytes` UTF-8 bytes, cut after a newline where there is one."""
    if 4 * len(text) <= max_bytes:  # no character takes more
        return [text]
    data = text.encode()
    if len(data) <= max_bytes:
        return [text]
    return [piece.decode() for piece in cut_bytes(data, max_bytes)]


def cut_bytes(data: bytes, max_bytes: int) -> list[bytes]:
    """UTF-8 bytes in pieces of at most `max_bytes`, none of which cuts a character."""
    pieces = []
    start = 0
    while len(data) - start > max_bytes:
        stop = data.rfind(b"\n", start, start + max_bytes) + 1
        if stop <= start:
            stop = start + max_bytes
            while stop > start + 1 and data[stop] & 0xC0 == 0x80:
                stop -= 1
        pieces.append(data[start:stop])
        start = stop
    return [*pieces, data[start:]]
