"""Drawing from logits: what is likeliest, what is forbidden, and that a seed is a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from llm.model.generation import generate

LOGITS = torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0])


def fixed(ids: Tensor) -> Tensor:
    return LOGITS.expand(1, ids.shape[1], 5)


def draw(n: int = 4000, **options: object) -> list[int]:
    return list(generate(fixed, [0], n, 8, **options))  # type: ignore[arg-type]


def test_temperature_0_is_the_likeliest() -> None:
    assert draw(5, temperature=0) == [2] * 5


def test_frequencies_are_the_softmax() -> None:
    counts = torch.bincount(torch.tensor(draw(temperature=0.8, top_k=None)), minlength=5) / 4000
    torch.testing.assert_close(counts, (LOGITS / 0.8).softmax(0), rtol=0, atol=0.03)


def test_top_k_and_forbidden() -> None:
    assert set(draw(top_k=2)) == {2, 3}
    assert set(draw(top_k=2, forbidden=(2,))) == {3, 1}


def test_same_seed_same_text_and_a_longer_one_begins_alike() -> None:
    assert draw(50, seed=1) == draw(50, seed=1) != draw(50, seed=2)
    assert draw(20, seed=1) == draw(50, seed=1)[:20]


def test_stop_ends_the_text() -> None:
    found = draw(200, stop=3)
    assert 3 not in found and len(found) < 200


def test_only_the_context_is_shown() -> None:
    seen = []

    def forward(ids: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return fixed(ids)

    list(generate(forward, [0] * 6, 5, 8))
    assert seen == [6, 7, 8, 8, 8]
