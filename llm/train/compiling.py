"""torch.compile for training; everything else (validation, samples, checks) stays as it is."""

from __future__ import annotations

from typing import Literal

import torch

from llm.train.objective import Objective

How = Literal["none", "blocks", "whole"]


def compile_model(objective: Objective, how: How) -> None:
    """Compile what training calls, in place and before an engine is made: names of parameters stay.

    blocks: each block alone, which are alike and are compiled once: short start. whole: the losses as one
    graph: the compiler fuses over the blocks' borders, and takes longer. The first steps are slow with both.
    """
    if how == "blocks":
        for block in objective.model.blocks:
            block.compile()
    elif how == "whole":
        objective.compiled = torch.compile(objective.model.losses)
