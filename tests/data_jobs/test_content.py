"""Identity, split and order by content."""

from __future__ import annotations

import numpy as np

from data_jobs.content import Placement, content_hash, document_id
from data_jobs.hashes import h64, mix, mix_array


def test_identity_is_of_source_and_text() -> None:
    c = content_hash("web", "a text")
    assert len(c) == 16
    assert document_id(c) == h64("web", "a text")
    assert (
        len(
            {
                c,
                content_hash("books", "a text"),
                content_hash("web", "a text "),
                content_hash("we", "ba text"),
            }
        )
        == 4
    )


def test_share_of_val_and_bounds() -> None:
    hashes = [content_hash("s", str(i)) for i in range(20_000)]
    share = sum(map(Placement.of(1, 0.05).is_val, hashes)) / len(hashes)
    assert 0.045 < share < 0.055
    assert not any(map(Placement.of(1, 0.0).is_val, hashes))
    assert [Placement.of(1, 0.5).is_val(c) for c in hashes] != [
        Placement.of(2, 0.5).is_val(c) for c in hashes
    ]


def test_val_grows_with_the_share() -> None:
    hashes = [content_hash("s", str(i)) for i in range(2_000)]
    small, large = ({c for c in hashes if Placement.of(7, share).is_val(c)} for share in (0.05, 0.1))
    assert small < large


def test_sort_key_is_the_formula() -> None:
    c = content_hash("s", "t")
    assert Placement.of(3, 0.1).sort_key(c) == mix(document_id(c) ^ h64(3, "order"))


def test_mix_of_arrays_is_mix() -> None:
    values = np.array([0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF], np.uint64)
    assert mix_array(values).tolist() == [mix(int(v)) for v in values]
