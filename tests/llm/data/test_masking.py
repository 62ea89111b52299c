"""What is hidden of a row: how much, how, and that it hangs on the sample alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data.masking import Vocabulary, hide, most_guesses, starts_word, vocabulary_of
from llm.training_settings import MaskingSettings
from tests.llm.data.reference import SPECIALS, VOCABULARY

LENGTH = 128
DRAW = np.random.default_rng(0)


def rows_of(count: int) -> np.ndarray:
    """[CLS] text [SEP] text [SEP] padding."""
    rows = DRAW.integers(7, 900, (count, LENGTH))
    rows[:, 0] = SPECIALS["cls"]
    for row in rows:
        middle, end = sorted(DRAW.integers(2, LENGTH, 2).tolist())
        row[end:] = SPECIALS["pad"]
        row[[middle, end]] = SPECIALS["sep"]
    return rows


ROWS = rows_of(2_000)
NUMBERS = np.arange(len(ROWS)) * 7 + 10**12


def test_shares_over_many_tokens() -> None:
    """Each guess has its own draw: counts are within five standard deviations of a binomial's."""
    masking = MaskingSettings()
    most = most_guesses(LENGTH - 3, masking)
    found = hide(ROWS, NUMBERS, 3, most, masking, VOCABULARY)
    ordinary = ROWS >= 7
    assert ordinary.sum() > 100_000
    share = np.maximum(np.floor(ordinary.sum(axis=1) * 0.15 + 0.5), 1)
    assert (found.weights.sum(axis=1) == share).all()
    real = found.weights > 0
    row, column = np.nonzero(real)
    at = found.positions[row, column]
    guessed = np.zeros(ROWS.shape, bool)
    guessed[row, at] = True
    assert guessed.sum() == real.sum()  # no place twice
    assert not guessed[~ordinary].any() and (found.inputs[~guessed] == ROWS[~guessed]).all()
    assert (found.targets[real] == ROWS[row, at]).all() and not found.targets[~real].any()
    assert not found.positions[~real].any()
    shown, true = found.inputs[row, at], ROWS[row, at]
    n = len(at)
    as_mask, changed = shown == SPECIALS["mask"], (shown != SPECIALS["mask"]) & (shown != true)
    for count, p in ((as_mask.sum(), 0.8), (changed.sum(), 0.1 * 892 / 893)):
        assert abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))
    assert (shown[changed] >= 7).all() and len(np.unique(shown[changed])) > 500
    places = np.bincount(at, minlength=LENGTH)[1:100] / ordinary.sum(axis=0)[1:100]
    assert abs(places - 0.15).max() < 0.05  # wherever in the row


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_sample_decides_alone(whole_word: bool) -> None:
    masking = MaskingSettings(whole_word=whole_word)
    whole = hide(ROWS, NUMBERS, 3, 19, masking, VOCABULARY)
    some = np.array([1500, 3, 77])
    part = hide(ROWS[some], NUMBERS[some], 3, 19, masking, VOCABULARY)
    for a, b in zip(part, whole, strict=True):
        assert np.array_equal(a, b[some])
    same_row = np.repeat(ROWS[:1], 50, axis=0)
    others = hide(same_row, np.arange(50), 3, 19, masking, VOCABULARY).positions
    assert len(np.unique(others, axis=0)) > 45
    another_seed = hide(ROWS, NUMBERS, 4, 19, masking, VOCABULARY)
    assert (another_seed.positions != whole.positions).any(axis=1).mean() > 0.9


def words_of(row: np.ndarray) -> list[list[int]]:
    words: list[list[int]] = []
    for at, token in enumerate(row.tolist()):
        if token < 7:
            continue
        if VOCABULARY.starts_word[token] or row[at - 1] < 7:
            words.append([])
        words[-1].append(at)
    return words


def test_whole_words() -> None:
    masking = MaskingSettings(whole_word=True)
    most = most_guesses(LENGTH - 3, masking)
    found = hide(ROWS, NUMBERS, 3, most, masking, VOCABULARY)
    filled = 0
    for row, positions, weights in zip(ROWS, found.positions, found.weights, strict=True):
        chosen = set(positions[weights > 0].tolist())
        words = words_of(row)
        budget = most_guesses(sum(map(len, words)), masking)
        assert 1 <= len(chosen) <= budget <= most
        if min(map(len, words)) <= budget:
            assert all(chosen.issuperset(word) or chosen.isdisjoint(word) for word in words)
            filled += budget - len(chosen) < 2
    assert filled > 0.9 * len(ROWS)  # what is left of the number is filled by words that fit


def test_a_word_that_is_longer_than_all_guesses() -> None:
    none_starts = Vocabulary(900, SPECIALS, np.zeros(900, bool))
    masking = MaskingSettings(whole_word=True)
    found = hide(ROWS, NUMBERS, 3, 19, masking, none_starts)
    single = hide(ROWS, NUMBERS, 3, 19, MaskingSettings(), none_starts)
    two_words = np.count_nonzero(np.equal(ROWS, SPECIALS["sep"]), axis=1) == 2
    assert (found.weights.sum(axis=1)[two_words] >= 1).all()
    same = (found.positions == single.positions).all(axis=1)
    assert same.mean() > 0.5


@given(st.integers(4, 60), st.floats(0.01, 0.99), st.booleans(), st.integers(0, 2**63))
@settings(max_examples=50)
def test_no_row_has_more_than_k(length: int, share: float, whole_word: bool, number: int) -> None:
    masking = MaskingSettings(share=share, whole_word=whole_word)
    most = most_guesses(length - 2, masking)
    rows = np.full((3, length), 0)
    rows[0, 1:-1] = 50 + np.arange(length - 2)
    rows[1, 1] = 9
    found = hide(rows, np.array([number, 5, -1]), 0, most, masking, VOCABULARY)
    assert found.positions.shape == (3, most) and found.inputs.shape == rows.shape
    assert found.weights[1].sum() == 1 and found.weights[2].sum() == 0
    assert found.weights[0].sum() == most or whole_word


def test_golden() -> None:
    """Runs hang on these values: they may never change."""
    row = np.array([[4, *range(10, 30), 5, 0, 0]])
    found = hide(row, np.array([42]), 1, 3, MaskingSettings(mask=0.4, random=0.4), VOCABULARY)
    assert (found.positions.tolist(), found.inputs[0, found.positions[0]].tolist()) == GOLDEN


GOLDEN = ([[7, 14, 15]], [6, 6, 24])


class Bytes:
    """The 256 bytes, three specials and a word."""

    vocab_size = 260

    def __init__(self) -> None:
        self.specials = {"eos": 256, "pad": 257, "mask": 258}

    def piece_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b" the" if token == 259 else b""

    def is_byte(self, token: int) -> bool:
        return token < 256


@pytest.mark.parametrize(
    ("piece", "starts"),
    [
        (" the", True), ("ing", False), ("7", False), ("ß", False), (".", True), ("(x", True), ("\n", True),
        ("\t", True), ("海", True), ("が静", True), ("\u0301", False), ("ไทย", True), ("الم", False),
        ("", True),
    ],
)  # fmt: skip
def test_where_words_begin(piece: str, starts: bool) -> None:
    assert starts_word(piece.encode()) == starts


def test_vocabulary_of_a_tokenizer() -> None:
    words = vocabulary_of(Bytes())
    assert words.starts_word[[ord(" "), ord("!"), 0xE3, 259]].all()
    assert not words.starts_word[[ord("a"), ord("7"), 0x80, 0xC3]].any()
    assert len(words.ordinary_ids) == 257 and words.special("eos") == 256
    with pytest.raises(UserError, match=r"no special 'cls', only eos, pad, mask; prepare the corpus"):
        words.special("cls")
