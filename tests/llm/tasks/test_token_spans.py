"""Where tokens stand in a text: transformers' offsets, and each character found again in any script."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.tokens.tokenizer import Tokenizer
from llm.tasks.token_spans import spans_of, tokens_of_answer
from tests.llm.tasks.task_files import ours, write_bert

TRICKY = st.text(
    st.one_of(
        st.sampled_from(" \n\tabcé海🙂\u0301\u200d.,"),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cn")),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    return write_bert(tmp_path_factory.mktemp("bert"))


def test_spans_are_the_offsets_of_transformers(bert: tuple[Tokenizer, Any]) -> None:
    mine, theirs = bert
    text = "  The ship, naïve café\tÜBER größe 海 が  storms;  far-away."
    ((_, ends),) = mine.encode_with_ends([text])
    spans = spans_of(text, ends)
    offsets = theirs(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    found = list(zip(spans.starts.tolist(), spans.stops.tolist(), strict=True))
    assert found[:-1] == [tuple(pair) for pair in offsets[:-1]]
    assert found[-1][0] == offsets[-1][0]  # its stop is the text's


@given(TRICKY, st.data())
@example("海海🙂é", None)
def test_an_answer_is_found_again(text: str, data: Any) -> None:
    """With a tokenizer that spells rare characters in bytes: a token may end inside of a character."""
    ((ids, ends),) = ours().encode_with_ends([text])
    starts = range(len(text))
    spans = spans_of(text, ends)
    pairs = [(a, b) for a in starts for b in range(a + 1, len(text) + 1)]
    if data is not None:
        pairs = [data.draw(st.sampled_from(pairs))]
    for first, stop in pairs:
        answer = text[first:stop]
        if not answer.strip():
            continue
        begin, end = tokens_of_answer(text, ends, first, answer)
        assert 0 <= begin <= end < len(ids)
        # The tokens hold the answer, and no token of them could be left out.
        told = text[spans.starts[begin] : spans.stops[end]]
        assert answer.strip() in told
        at = len(text[: first + len(answer) - len(answer.lstrip())].encode())
        assert ends[begin] > at and (begin == 0 or ends[begin - 1] <= at)


def test_spans_begin_at_no_blank() -> None:
    text = "a  ship\n\n went 海"
    ((_, ends),) = ours().encode_with_ends([text])
    spans = spans_of(text, ends)
    for start, stop in zip(spans.starts.tolist(), spans.stops.tolist(), strict=True):
        assert start <= stop
        assert start == stop or not text[start].isspace()


def test_a_token_inside_of_a_character_stands_for_all_of_it() -> None:
    ((ids, ends),) = ours().encode_with_ends(["a🙂b"])
    spans = spans_of("a🙂b", ends)
    inside = [at for at, end in enumerate(ends.tolist()) if 1 < end <= 5]
    assert len(inside) == 4 == len(ids) - 2  # bytes
    assert {(spans.starts[at], spans.stops[at]) for at in inside} == {(1, 2)}
