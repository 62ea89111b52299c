"""What becomes of a record by its fields: text and metadata, and the source's rules for those that it lacks.

A reason of a drop is a failure (the record is bad), or it was asked for or is usual in files of this
format (the record is left out). Both are counted; `corpus.max_bad_fraction` is about the first alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from data_jobs.reading.raw_bytes import Reading
from data_jobs.reading.records import Place, Record, Reject, rejected
from data_jobs.reading.source_settings import SourceSettings, metadata_fields

OTHER_RECORD, NOT_HTML, HTTP_STATUS = "other_record", "not_html", "http_status"
_USUAL = (OTHER_RECORD, NOT_HTML, HTTP_STATUS)
_OF_METADATA = "missing_meta."


def is_left_out(source: SourceSettings, reason: str) -> bool:
    """Whether a drop for this reason is no failure: it was asked for, or is usual in the format."""
    if reason == "missing_text":
        return source.missing.get(source.text_field) == "drop"
    return reason in _USUAL or reason.startswith(_OF_METADATA)


class Unusable(Exception):
    """A record that gives no document."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class FieldRules:
    """The fields that a source wants of its records."""

    source: str
    text_field: str
    metadata: tuple[str, ...]
    missing: Mapping[str, str]
    defaults: Mapping[str, str]
    blank_is_missing: bool = False
    """Of CSV, which has no null: a blank field counts as missing, where there is a rule for it."""

    @classmethod
    def of(cls, source: SourceSettings) -> FieldRules:
        return cls(
            source.name,
            source.text_field,
            tuple(metadata_fields(source)),
            source.missing,
            source.defaults,
            source.format == "csv",
        )

    def record(
        self,
        get: Callable[[str], Any],
        has_text: bool,
        place: Place,
        raw_bytes: int,
        head: bytes,
        fields: Sequence[str],
        reading: Reading,
    ) -> Record | Reject:
        """A record of fields that `get` gives (None: absent or null), `fields` their names.

        Raises UserError where a field is missing that must not be.
        """
        try:
            text = self.text(get(self.text_field), has_text, place)
            kept = {name: self.value(name, get(name), place) for name in self.metadata}
            for part in (text, *kept.values()):
                part.encode()
        except UnicodeEncodeError:
            detail = "half of a surrogate pair, which no UTF-8 text can hold"
            return rejected("lone_surrogate", detail, place, raw_bytes, head, fields)
        except Unusable as problem:
            return rejected(problem.reason, problem.detail, place, raw_bytes, head, fields)
        if self.text_field in self.defaults:
            reading.bytes_added += max(0, len(text.encode()) - raw_bytes)
        return Record(text, place, raw_bytes, kept)

    def text(self, value: Any, is_there: bool, place: Place) -> str:
        """The text; raises Unusable, or UserError where it must not be missing."""
        if isinstance(value, str) and not self._is_blank(self.text_field, value):
            return value
        if value is not None and not isinstance(value, str):
            raise Unusable("text_not_string", f"field '{self.text_field}' is a {kind_of_json(value)}")
        if self.text_field in self.defaults:
            return self.defaults[self.text_field]
        what = f"field '{self.text_field}' is null" if is_there else f"no field '{self.text_field}'"
        rule = self.missing.get(self.text_field)
        if rule == "fail":
            self._fail(self.text_field, place)
        raise Unusable("null_text" if is_there and rule is None else "missing_text", what)

    def value(self, name: str, value: Any, place: Place) -> str:
        """A metadata field as text; raises Unusable, or UserError where it must not be missing."""
        if value is not None and not self._is_blank(name, value):
            return as_text(value)
        if name in self.defaults:
            return self.defaults[name]
        match self.missing.get(name):
            case "fail":
                self._fail(name, place)
            case "drop":
                raise Unusable(f"{_OF_METADATA}{name}", f"field '{name}' is missing")
        return ""

    def _is_blank(self, name: str, value: Any) -> bool:
        has_rule = self.blank_is_missing and (name in self.missing or name in self.defaults)
        return has_rule and isinstance(value, str) and not value.strip()

    def _fail(self, name: str, place: Place) -> None:
        raise UserError(
            f"{place}: field '{name}' is missing, and source '{self.source}' says missing: {{{name}: fail}}; "
            "mend the record, or choose drop or a value in defaults"
        )


def kind_of_json(value: Any) -> str:
    """What JSON calls a value."""
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


def as_text(value: Any) -> str:
    """A metadata value as text: strings as they are, what JSON has as canonical JSON, the rest by `str`."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return value.hex() if isinstance(value, bytes) else str(value)
