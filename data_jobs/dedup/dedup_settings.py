"""What a recipe may say of repeated text: near duplicates, repeated lines, evaluation texts."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cluster.fields import Settings, free, identity


class MinhashSettings(Settings):
    """Near duplicates, by MinHash signatures and locality-sensitive hashing (Broder 1997)."""

    threshold: float = identity(
        0.75,
        "near duplicates have at least this Jaccard similarity of their sets of word n-grams",
        gt=0,
        le=1,
    )
    ngram: int = identity(5, "words of one n-gram; a Chinese, Japanese or Korean character is a word", ge=1)
    bands: int = identity(14, "bands of a signature: texts that agree in one are compared", ge=1, le=255)
    rows: int = identity(8, "minima of a band; half of the pairs at about (1/bands)^(1/rows) are found", ge=1)
    scope: Literal["source", "corpus"] = identity(
        "corpus", "source: only texts of one source are compared; corpus: all are"
    )
    verify: bool = identity(
        True, "compare the n-grams of the texts themselves; false: what agrees in a band is taken as equal"
    )
    max_bucket: int = identity(
        512,
        "where more texts than this agree in a band, each is compared with so many before it alone, in an "
        "order by content; pairs further apart are then not looked for in other bands either",
        ge=2,
    )
    keep: Literal["first", "longest", "best"] = identity(
        "first",
        "which of a cluster stays; first: by source, then in the corpus' order; longest: most bytes; "
        "best: by best_by",
    )
    best_by: str | None = identity(
        None,
        "metadata field of a source with a number, for keep: best; the largest stays, a text without one "
        "comes last",
    )
    alarm_fraction: float = free(
        0.5, "warn of a source that loses more than this share of its documents here", ge=0, le=1
    )
    ranges: int | None = free(
        None, "tasks that the band keys are cut into (default: by the number of documents)", ge=1
    )

    @model_validator(mode="after")
    def _best_has_its_field(self) -> MinhashSettings:
        if (self.keep == "best") != (self.best_by is not None):
            raise ValueError("keep: best and best_by (the metadata field with the number) go together")
        return self


class RepeatsSettings(Settings):
    """Lines and paragraphs that many documents share."""

    lines: bool = identity(
        False, "remove a line that stands in many documents of a source (menus, notices) from all of them"
    )
    min_documents: int = identity(10, "a line is removed that stands in at least so many documents", ge=2)
    min_fraction: float = identity(
        0.001, "and in at least this share of the source's documents, copies counted", ge=0, le=1
    )
    line_words: int = identity(2, "a line of fewer words is never removed", ge=1)
    paragraphs: bool = identity(
        False,
        "of equal paragraphs of a source the first in the corpus' order stays, the others are removed, also "
        "where a later stage drops the document that has the first",
    )
    paragraph_words: int = identity(8, "a paragraph of fewer words is never removed", ge=1)
    ranges: int | None = free(
        None, "tasks that the hashes of a source are cut into (default: by the bytes of its text)", ge=1
    )

    @property
    def wanted(self) -> bool:
        """Whether texts are rewritten at all."""
        return self.lines or self.paragraphs


class DecontaminateSettings(Settings):
    """Evaluation texts that no document may hold."""

    files: list[str] = free(
        [],
        "evaluation sets, here or in an object store: .jsonl (each text of each object) or plain text, also "
        ".gz, .zst, .xz; what shares word n-grams with one is dropped",
    )
    ngram: int = identity(13, "words of an n-gram (Brown et al. 2020); shorter texts find nothing", ge=1)
    min_matches: int = identity(1, "distinct n-grams that a document must share to be dropped", ge=1)
