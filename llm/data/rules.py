"""How samples are made of a corpus: the rule of a run, as values.

| kind | a sample | model |
| --- | --- | --- |
| `stream` | L+1 tokens of the stream, from anywhere | GPT |
| `bestfit` | whole documents, packed so that the fewest are cut, and padding | GPT |
| `pairs` | two parts of whole sentences; does the second follow the first? | BERT |
| `segments` | whole sentences | BERT |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.errors import UserError
from data_jobs.hashes import h64
from llm.data.masking import Vocabulary, most_guesses
from llm.data.packing import Packed, pack
from llm.data.plans import GROUP_TOKENS
from llm.data.sentence_rows import Segments, cut_segments
from llm.data.streams import Stream
from llm.training_settings import MaskingSettings

Kind = Literal["stream", "bestfit", "pairs", "segments"]
VERSION = 1  # of the rules that have plans: another one makes other samples
EVALUATION_SEED = h64("evaluation")  # an evaluation has the same pairs and masks in every run


@dataclass(frozen=True)
class StreamRule:
    """Rows are cut from the stream. `eos`: attention stays inside each document (None: it does not).

    `lead`: of an evaluation: so many tokens earlier each row begins.
    """

    length: int
    eos: int | None = None
    lead: int = 0

    @property
    def name(self) -> Kind:
        """Its kind."""
        return "stream"

    @property
    def guesses(self) -> int:
        """K, targets of a row."""
        return self.length


@dataclass(frozen=True)
class BestfitRule:
    """Whole documents are packed into rows; what is left of a row is padding."""

    length: int
    pad: int
    eos: int
    confine: bool = False
    group_tokens: int = GROUP_TOKENS

    @property
    def name(self) -> Kind:
        """Its kind."""
        return "bestfit"

    @property
    def guesses(self) -> int:
        """K, targets of a row."""
        return self.length

    def table(self, stream: Stream, group: int) -> Packed:
        """The rows of a group."""
        return pack(stream.document_bounds(*_group(stream, group, self.group_tokens)), self.length)

    def describe_plan(self) -> dict[str, Any]:
        """All values, beside the corpus, that a plan depends on."""
        return _describe_plan(self.name, self.length, self.group_tokens)


@dataclass(frozen=True, eq=False)
class SentenceRule:
    """Segments of whole sentences with a share of their tokens hidden; `with_next`: in two parts."""

    length: int
    vocabulary: Vocabulary
    masking: MaskingSettings
    seed: int
    with_next: bool
    group_tokens: int = GROUP_TOKENS

    @property
    def name(self) -> Kind:
        """Its kind."""
        return "pairs" if self.with_next else "segments"

    @property
    def budget(self) -> int:
        """Most tokens of text in a row: L without [CLS] and each [SEP]."""
        return self.length - (3 if self.with_next else 2)

    @property
    def guesses(self) -> int:
        """K, targets of a row that is full."""
        return most_guesses(self.budget, self.masking)

    @property
    def cls(self) -> int:
        """Id of [CLS]."""
        return self.vocabulary.special("cls")

    @property
    def sep(self) -> int:
        """Id of [SEP]."""
        return self.vocabulary.special("sep")

    @property
    def pad(self) -> int:
        """Id of the padding."""
        return self.vocabulary.special("pad")

    def table(self, stream: Stream, group: int) -> Segments:
        """The segments of a group."""
        here = _group(stream, group, self.group_tokens)
        return cut_segments(stream.document_bounds(*here), stream.sentence_ends(*here), self.budget)

    def describe_plan(self) -> dict[str, Any]:
        """All values, beside the corpus, that a plan depends on."""
        return _describe_plan(self.name, self.length, self.group_tokens)


PlannedRule = BestfitRule | SentenceRule
Rule = StreamRule | PlannedRule


def rule_of(
    kind: Kind,
    length: int,
    *,
    vocabulary: Vocabulary | None = None,
    confine: bool = False,
    masking: MaskingSettings | None = None,
    seed: int = 0,
    group_tokens: int = GROUP_TOKENS,
) -> Rule:
    """The rule of a kind. All but a stream that is not confined need the vocabulary.

    `seed`: of pairs and masks. Raises UserError for a row that is too short, or specials that are not there.
    """
    if kind == "stream" and not confine:
        return StreamRule(length)
    assert vocabulary is not None, f"rule '{kind}' needs the vocabulary"
    if kind == "stream":
        return StreamRule(length, vocabulary.special("eos"))
    if kind == "bestfit":
        eos = vocabulary.special("eos")
        pad = vocabulary.specials.get("pad", eos)  # a padded place weighs nothing, whatever stands there
        return BestfitRule(length, pad, eos, confine, group_tokens)
    if length < 8:
        raise UserError(f"pretrain.length is {length}: a row of two parts and their marks needs 8 or more")
    for name in ("cls", "sep", "pad", "mask"):
        vocabulary.special(name)
    masking = masking or MaskingSettings()
    return SentenceRule(length, vocabulary, masking, seed, kind == "pairs", group_tokens)


def evaluation_rule(rule: Rule) -> StreamRule | SentenceRule:
    """The rule of an evaluation: every token once for a GPT, whatever its training rows; a BERT's own.

    Where whole documents were packed, each stood behind the eos before it. So rows begin a token earlier, and
    documents of one length, images, are seen as they were in training.
    """
    if isinstance(rule, SentenceRule):
        return replace(rule, seed=EVALUATION_SEED)
    if isinstance(rule, BestfitRule):
        return StreamRule(rule.length, rule.eos if rule.confine else None, lead=1)
    return rule


def _group(stream: Stream, group: int, group_tokens: int) -> tuple[int, int]:
    return group * group_tokens, min((group + 1) * group_tokens, stream.tokens)


def _describe_plan(name: str, length: int, group_tokens: int) -> dict[str, Any]:
    return {"name": name, "version": VERSION, "length": length, "group": group_tokens}
