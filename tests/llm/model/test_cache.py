"""Keys and values that are kept: what was put in comes out, however the room grew."""

from __future__ import annotations

import pytest
import torch

from llm.model.cache import BLOCK, KeyValues


def test_all_that_was_put_in_comes_out_in_order() -> None:
    """Over several growths, in steps of one and of many; the room never passes the context."""
    context = 3 * BLOCK + 10
    cache = KeyValues(context)
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 3, context, 4, generator=generator) for _ in range(2))
    end = 0
    for size in (5, *[1] * 300, BLOCK, context - 305 - BLOCK):
        part = slice(end, end + size)
        found = cache.extend(k[:, :, part], v[:, :, part])
        end += size
        assert cache.length == end
        assert torch.equal(found[0], k[:, :, :end]) and torch.equal(found[1], v[:, :, :end])
        assert found[0].untyped_storage().nbytes() <= 2 * 3 * 4 * 4 * context
    with pytest.raises(ValueError, match=f"{context + 1} tokens are more than the cache's context"):
        cache.extend(k[:, :, :1], v[:, :, :1])


def test_room_is_taken_in_blocks_and_then_doubled() -> None:
    """So that few steps copy what is there."""
    cache, rooms = KeyValues(10_000), []
    for _ in range(5 * BLOCK):
        keys, _ = cache.extend(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        rooms.append(keys.untyped_storage().nbytes() // 4)
    assert sorted(set(rooms)) == [BLOCK, 2 * BLOCK, 4 * BLOCK, 8 * BLOCK]


def test_rows_that_are_kept() -> None:
    cache, values = KeyValues(100), torch.arange(3.0).view(3, 1, 1, 1)
    cache.extend(values, -values)
    cache.keep(torch.tensor([2, 0]))
    keys, _ = cache.extend(values[:2] + 5, values[:2])
    assert keys.flatten().tolist() == [2, 5, 0, 6]
    assert cache.extend(values[:2], values[:2])[1].flatten().tolist() == [-2, 0, 0, 0, 1, 1]
