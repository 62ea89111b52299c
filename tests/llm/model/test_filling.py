"""Masks to tokens, against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from llm.model.bert import BERT
from llm.model.filling import fill
from llm.settings import ModelSettings

MODEL = BERT(ModelSettings(kind="bert", layers=2, width=32, heads=4, context=16, init_std=0.2), 50, 1).eval()
ROW = [2, 9, 4, 30, 4, 8, 3]  # 4 is the mask


def test_candidates_are_the_likeliest_of_each_mask() -> None:
    with torch.no_grad():
        shares = MODEL(torch.tensor([ROW]))[0].softmax(1)
    found = fill(MODEL, ROW, 4, top=5)
    assert [filling.position for filling in found] == [2, 4]
    for filling in found:
        tokens, values = zip(*filling.candidates, strict=True)
        expected = shares[filling.position].sort(descending=True)
        assert list(tokens) == expected.indices[:5].tolist()
        assert list(values) == pytest.approx(expected.values[:5].tolist(), rel=1e-5)
    assert found[0].candidates != found[1].candidates


def test_forbidden_tokens_are_no_candidates() -> None:
    best = fill(MODEL, ROW, 4, top=1)[0].candidates[0][0]
    found = fill(MODEL, ROW, 4, top=99, forbidden=(best, 4, 4))[0].candidates
    assert len(found) == 48 and {token for token, _ in found} == set(range(50)) - {best, 4}
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-5)
