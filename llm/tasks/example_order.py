"""Sample number to row of a part: each row once an epoch, in an order that is a function of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_jobs.hashes import h64
from llm.data.permutation import permute
from llm.data.samples import Ints, Picks
from llm.tasks.example_rows import Examples


class ExampleOrder:
    """Sample n is row permute(n mod rows) of epoch n div rows; random access, nothing is stored."""

    def __init__(self, rows: int, seed: int, digest: str) -> None:
        """`digest`: of the examples, for the description."""
        assert rows >= 1
        self.rows, self.seed, self.digest = rows, seed, digest

    def picks(self, numbers: Ints) -> Picks:
        """Sample numbers to rows (`at`) and epochs."""
        epochs, positions = np.divmod(numbers, self.rows)
        at = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            at[here] = permute(positions[here], self.rows, h64(self.seed, "examples", epoch))
        return Picks(numbers, np.zeros_like(numbers), epochs, at)

    def describe(self) -> dict[str, Any]:
        """All values that the order depends on, for the checkpoint: equal descriptions are equal orders."""
        return {"examples": self.digest, "rows": self.rows, "seed": self.seed}


def order_of_examples(examples: Examples, seed: int) -> ExampleOrder:
    """The order of a part's rows."""
    return ExampleOrder(examples.rows, seed, examples.digest)
