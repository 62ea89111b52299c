"""A sealed file tells each change of it."""

from __future__ import annotations

import pytest

from cluster.sealed import seal, unseal

VALUE = {"format": "x/1", "n": 3, "rows": [1, 2.5, None, "ü"]}


def test_it_comes_back() -> None:
    assert unseal(seal(VALUE)) == VALUE


def test_each_flipped_bit_is_seen() -> None:
    data = seal(VALUE)
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(ValueError):
                unseal(bytes(changed))


@pytest.mark.parametrize(
    "data", [b"", b"[]\n", b"{}\n", b'{"a":NaN}\n', b"\xff", seal(VALUE)[:-1], seal(VALUE) + b"\n"]
)
def test_what_was_never_sealed(data: bytes) -> None:
    with pytest.raises(ValueError):
        unseal(data)
