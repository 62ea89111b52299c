"""What is done to each text."""

from __future__ import annotations

from typing import Literal

from cluster.fields import Settings, identity


class CleanSettings(Settings):
    """What is done to each text before anything else sees it."""

    form: Literal["NFC", "none"] = identity("NFC", "Unicode normalisation form")
    control_characters: Literal["remove", "keep"] = identity(
        "remove", "remove: no control characters but tab and newline; CRLF and CR become newline"
    )
