"""What those that train are told of validations beside them: for the sweep of checkpoints, and for W&B."""

from __future__ import annotations

from cluster import places
from llm.run_settings import RunSettings
from llm.train.checkpoints.retention import Beside, Keep
from llm.train.run_folder import RunFolder, read_lines
from llm.train.validations import LateRows, Needs, late_losses

LOOK_SECONDS, REMOTE_LOOK_SECONDS = 2.0, 15.0  # between two looks for new numbers


def late_rows(folder: RunFolder) -> LateRows:
    """What validations beside the training find while this one is on, for W&B."""
    seconds = REMOTE_LOOK_SECONDS if places.is_remote(folder.path) else LOOK_SECONDS
    return LateRows(lambda: read_lines(folder.validation), seconds)


def read_beside(folder: RunFolder, settings: RunSettings) -> Beside:
    """What a sweep must know of validations beside the training."""
    found = list(read_lines(folder.validation))
    if settings.validation.where == "trainer":
        return Beside(late_losses(found))
    return Beside(late_losses(found), Needs(settings, found))


def keep_of(settings: RunSettings) -> Keep:
    wanted = settings.checkpoint
    return Keep(wanted.keep, wanted.keep_every, wanted.keep_best)
