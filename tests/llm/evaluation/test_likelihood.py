"""Likelihoods of the last tokens of a row: token by token through the whole model, and no shortcut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from llm.evaluation.likelihood import Likelihood, continuations, pseudo_likelihoods, windows
from llm.model import make_model
from llm.settings import ModelSettings

VOCAB, CONTEXT, MASK, CLS, SEP = 60, 16, 5, 3, 4
SHAPE = {"layers": 2, "width": 32, "heads": 2, "context": CONTEXT, "init": "normal", "init_std": 0.3}


def model_of(kind: str, **changes: Any) -> Any:
    return make_model(ModelSettings.model_validate({"kind": kind, **SHAPE, **changes}), VOCAB, seed=1).eval()


def rows_of(count: int = 9) -> list[tuple[list[int], list[int]]]:
    """Of other lengths, none longer than the context."""
    chance = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, CONTEXT // 2, (count, 2), generator=chance).tolist()
    draw = lambda size: torch.randint(6, VOCAB, (size,), generator=chance).tolist()  # noqa: E731
    return [([CLS, *draw(before)], draw(asked)) for before, asked in sizes]


@torch.no_grad()
def by_hand(model: Any, before: list[int], asked: list[int]) -> Likelihood:
    """Each token asked for by a forward of its own."""
    nats, greedy, row = 0.0, True, list(before)
    for token in asked:
        logs = model(torch.tensor([row]))[0, -1].log_softmax(0)
        nats, greedy = nats + float(logs[token]), greedy and int(logs.argmax()) == token
        row.append(token)
    return Likelihood(nats, greedy)


@pytest.mark.parametrize("position", ["rotary", "learned", "alibi"])
def test_continuations_are_those_of_token_after_token(position: str) -> None:
    model, rows = model_of("gpt", position=position), rows_of()
    found = list(continuations(model, rows, CONTEXT, 4))
    for one, row in zip(found, rows, strict=True):
        assert one.nats == pytest.approx(by_hand(model, *row).nats, abs=1e-4)
    assert not any(one.greedy for one in found)


def test_what_the_model_would_write_is_greedy() -> None:
    model = model_of("gpt")
    row = [CLS, 17]
    with torch.no_grad():
        for _ in range(5):
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    other = [*row[2:6], (row[6] + 1) % VOCAB]
    first, second = continuations(model, [(row[:2], row[2:]), (row[:2], other)], CONTEXT, 2)
    assert first.greedy and not second.greedy
    assert first.nats > second.nats


def test_of_a_long_row_the_oldest_tokens_are_left_out() -> None:
    model = model_of("gpt")
    long = [CLS, *range(6, 6 + 2 * CONTEXT)]
    [cut] = continuations(model, [(long, [7, 8])], CONTEXT, 1)
    assert cut.nats == pytest.approx(by_hand(model, long[-(CONTEXT - 1) :], [7, 8]).nats, abs=1e-4)
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens are asked for"):
        list(continuations(model, [(long, long[: CONTEXT + 1])], CONTEXT, 1))


def test_pseudo_likelihoods_hide_one_token_at_a_time() -> None:
    model, rows = model_of("bert"), [(before, asked[:5]) for before, asked in rows_of()]
    found = list(pseudo_likelihoods(model, rows, MASK, SEP, CONTEXT, 2))
    for one, (before, asked) in zip(found, rows, strict=True):
        row, nats, greedy = [*before, *asked, SEP], 0.0, True
        for at in range(len(before), len(before) + len(asked)):
            hidden = [*row[:at], MASK, *row[at + 1 :]]
            with torch.no_grad():
                logs = model(torch.tensor([hidden]))[0, at].log_softmax(0)
            nats, greedy = nats + float(logs[row[at]]), greedy and int(logs.argmax()) == row[at]
        assert one.nats == pytest.approx(nats, abs=1e-4) and one.greedy == greedy


def test_of_a_long_row_of_a_bert_the_tokens_after_cls_are_left_out() -> None:
    model = model_of("bert")
    long, asked = [CLS, *range(6, 6 + 2 * CONTEXT)], [7, 8]
    [cut] = pseudo_likelihoods(model, [(long, asked)], MASK, SEP, CONTEXT, 2)
    short = [CLS, *long[-(CONTEXT - 4) :]]
    assert len(short) + len(asked) + 1 == CONTEXT
    [wanted] = pseudo_likelihoods(model, [(short, asked)], MASK, SEP, CONTEXT, 2)
    assert cut == wanted
    with pytest.raises(ValueError, match="a row has room for"):
        list(pseudo_likelihoods(model, [([CLS], long[:CONTEXT])], MASK, SEP, CONTEXT, 2))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 9, 15])
def test_windows_are_the_harness_own(size: int) -> None:
    theirs_of = pytest.importorskip("lm_eval.utils")
    tokens = list(range(10, 10 + size))
    theirs = map(theirs_of.make_disjoint_window, theirs_of.get_rolling_token_windows(tokens, 1, 4, 1))
    assert [(list(a), list(b)) for a, b in windows(tokens, 1, 4)] == [(list(a), list(b)) for a, b in theirs]
    asked = [token for _, part in windows(tokens, 1, 4) for token in part]
    assert asked == tokens
    assert all(later[0][-1] == earlier[1][-1] for earlier, later in pairwise(windows(tokens, 1, 4)))
