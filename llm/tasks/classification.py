"""How often classes were told right: metrics of one class, or any number of them, for each example.

Shapes: N examples, C classes, ... any number of leading axes (the resamples of a bootstrap). `counts`
[..., N] says how often each example counts; None: once. All is float64. What would be divided by zero is 0,
as with scikit-learn's `zero_division=0`; without examples everything is 0.

Averages are over all classes of the task, also those that stand nowhere: scikit-learn's with `labels` given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below, element by element; 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def confusion_matrix(
    truth: Ints, guess: Ints, classes: int, counts: Floats | None = None, column: Ints | None = None
) -> Floats:
    """[..., C, C]: examples of class (row) that were taken for class (column).

    `column` [N]: which of `counts` is an example's, where several have one (the words of a text).
    """
    cells = truth * classes + guess
    if counts is None:
        return np.bincount(cells, minlength=classes**2).astype(np.float64).reshape(classes, classes)
    found = np.empty((*counts.shape[:-1], classes**2))
    for at in np.ndindex(counts.shape[:-1]):
        weights = counts[at] if column is None else counts[at][column]
        found[at] = np.bincount(cells, weights, minlength=classes**2)
    return found.reshape(*counts.shape[:-1], classes, classes)


@dataclass(frozen=True)
class Tally:
    """Of each class [..., C]: examples told right, examples taken for it, examples that are of it."""

    hits: Floats
    guessed: Floats
    actual: Floats

    @property
    def precision(self) -> Floats:
        """Share that is right of what was taken for the class."""
        return ratio(self.hits, self.guessed)

    @property
    def recall(self) -> Floats:
        """Share that was found of what is of the class."""
        return ratio(self.hits, self.actual)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of the two: 2 hits / (guessed + actual)."""
        return ratio(2 * self.hits, self.guessed + self.actual)

    def averages(self) -> dict[str, Floats]:
        """precision, recall, f1: _macro (classes alike), _micro (summed first), _weighted (by `actual`)."""
        summed = Tally(*(part.sum(-1) for part in (self.hits, self.guessed, self.actual)))
        found = {}
        for name in ("precision", "recall", "f1"):
            values = getattr(self, name)
            found[f"{name}_macro"] = values.mean(-1)
            found[f"{name}_micro"] = getattr(summed, name)
            found[f"{name}_weighted"] = ratio((values * self.actual).sum(-1), summed.actual)
        return found


def tally_of_confusion(confusion: Floats) -> Tally:
    """One class for each example: [..., C, C] with the true classes as rows."""
    return Tally(np.diagonal(confusion, 0, -2, -1), confusion.sum(-2), confusion.sum(-1))


def tally_of_labels(truth: Ints, guess: Ints, counts: Floats | None = None) -> Tally:
    """Any number of classes for each example: truth and guess are 0 or 1, [N, C]."""
    weights = np.ones(len(truth)) if counts is None else counts
    return Tally(*(weights @ part.astype(np.float64) for part in (truth * guess, guess, truth)))


def accuracy(confusion: Floats) -> Floats:
    """[...]: share of the examples that were told right."""
    return ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def matthews(confusion: Floats) -> Floats:
    """[...]: Matthews' correlation of truth and guess; of several classes as Gorodkin (2004), eq. 8.

    0 where all are of one class, or all were taken for one.
    """
    actual, guessed = confusion.sum(-1), confusion.sum(-2)
    examples, hits = actual.sum(-1), np.trace(confusion, axis1=-2, axis2=-1)
    together = hits * examples - (actual * guessed).sum(-1)
    # sqrt of each by itself: their product loses digits above 2^53, from 10,000 examples on.
    alone = np.sqrt(examples**2 - (actual**2).sum(-1)) * np.sqrt(examples**2 - (guessed**2).sum(-1))
    return ratio(together, alone)


def exact_match(truth: Ints, guess: Ints, counts: Floats | None = None) -> Floats:
    """[...]: share of the examples [N, C] with every class right (subset accuracy)."""
    return mean_of((truth == guess).all(1), counts)


def hamming_loss(truth: Ints, guess: Ints, counts: Floats | None = None) -> Floats:
    """[...]: share of all N x C decisions that are wrong."""
    return mean_of((truth != guess).mean(1) if truth.size else np.zeros(len(truth)), counts)


def mean_of(
    values: npt.NDArray[np.generic], counts: Floats | None = None, sizes: Floats | None = None
) -> Floats:
    """[...]: sum of what each example has [N], over the sum of `sizes` [N] (default: 1 each)."""
    weights = np.ones(len(values)) if counts is None else counts
    below = weights.sum(-1) if sizes is None else weights @ sizes
    return ratio(np.asarray(weights @ values.astype(np.float64)), np.asarray(below))
