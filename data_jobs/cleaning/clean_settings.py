"""What is done to each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cluster.fields import Settings, identity


class CleanSettings(Settings):
    """What is done to each text before anything else sees it; `cleaner.py` says in which order."""

    encoding: Literal["repair", "keep"] = identity(
        "keep", "repair: lines that were decoded wrongly (mojibake) are decoded again, by ftfy"
    )
    control_characters: Literal["remove", "keep"] = identity(
        "remove", "remove: no control characters but tab and newline; CRLF and CR become newline"
    )
    zero_width: Literal["remove", "keep"] = identity(
        "keep",
        "remove: invisible characters (zero-width space, BOM, soft hyphen, direction marks), but for those "
        "that a script or an emoji needs",
    )
    form: Literal["NFC", "NFKC", "none"] = identity(
        "NFC", "Unicode normalisation form; NFKC also changes full-width forms, ligatures, superscripts"
    )
    white_space: list[Literal["runs", "trailing", "blank_lines"]] = identity(
        [],
        "runs: several blanks inside a line become one; trailing: none at a line's end; blank_lines: at most "
        "two in a row. Not for code",
    )
    private_data: list[Literal["email", "phone", "ip", "card", "key"]] = identity(
        [],
        "kinds that are replaced by <email>, <phone>, <ip>, <card> and <key> (secrets and tokens). "
        "Not for code",
    )
    ip_addresses: Literal["public", "all"] = identity(
        "public", "which addresses private_data's ip means: those of private networks are nobody's"
    )
    spelling: Literal["none", "en"] = identity(
        "none",
        "en: English words that no dictionary knows become the one word a letter away. It damages names and "
        "terms that are written small. Not for code",
    )


# What prose may gain by and code or pixels would break by.
_PROSE_ONLY: Mapping[str, Any] = {"white_space": [], "private_data": [], "spelling": "none"}
NOT_PROSE = ("code", "images")
"""Formats of sources that hold no prose."""


def check_changes(changes: Mapping[str, Any]) -> None:
    """ValueError (pydantic's) where these are no values of CleanSettings."""
    CleanSettings.model_validate(dict(changes))


def rules_of_source(clean: CleanSettings, format: str, changes: Mapping[str, Any]) -> CleanSettings:
    """The rules of one source: those of the corpus, for code and images without what is for prose, then what
    the source says itself.
    """
    rules = clean.model_dump()
    if format in NOT_PROSE:
        rules |= _PROSE_ONLY
    return CleanSettings.model_validate(rules | dict(changes))
