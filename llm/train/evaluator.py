"""The validation of one checkpoint in a process of its own: no engine, no group, nothing of the training."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from cluster import places
from cluster.cache import Cache
from cluster.fault_points import fault_point
from cluster.places import Place
from data_jobs import open_corpus
from llm.model import make_model
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.load import CheckpointReader
from llm.train.group import Group
from llm.train.guard import finite
from llm.train.job import Job
from llm.train.objective import Objective
from llm.train.run_folder import RunFolder
from llm.train.run_order import make_rule
from llm.train.validate import validate_corpus
from llm.train.worker import make_deterministic


def validate_checkpoint(
    job: Job,
    checkpoint: Place,
    most: int | None,
    device: torch.device,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Numbers by name, as a training's one worker finds them: over `most` samples of the val split, or all.

    The memory that it takes is twice that of the weights in fp32, for a moment. RunError where a file of the
    checkpoint is damaged or gone.
    """
    make_deterministic()
    settings = job.parsed()
    assert isinstance(settings, PretrainSettings)
    model_settings = ModelSettings.model_validate(job.model)
    reader = CheckpointReader(checkpoint, weights_only=True)
    corpus = open_corpus(job.data, "read", Cache(*job.cache))
    model = make_model(model_settings, job.vocab_size, settings.seed)
    model.load_state_dict(reader.weights(), strict=True)
    objective = Objective(model.to(device), settings.precision).eval()
    beat()
    with torch.no_grad():
        return validate_corpus(
            corpus, settings, make_rule(corpus, model_settings, settings),
            RunFolder(places.at(job.run)).plans, model, objective, Group(0, 1, device), most, beat,
        )  # fmt: skip


class Evaluator:
    """Made by Ray in a process of its own, which ends when nothing waits: nothing of it reaches a trainer."""

    def __init__(self, job: dict[str, Any], cpus: int, device: str) -> None:
        self.job, self.device = Job(**job), torch.device(device)
        torch.set_num_threads(cpus)
        os.nice(19)  # where the CPUs are not what Ray was told, who trains goes first

    def is_there(self) -> None:
        """Answers when it has its place, and is ready to work."""

    def validate(self, checkpoint: str, step: int, most: int | None) -> dict[str, Any]:
        """A line of validation.jsonl. The process dies where it finishes no batch for `hang_seconds`."""
        began, hang = time.monotonic(), self.job.settings["hang_seconds"]

        def beat() -> None:
            fault_point("validation.batch", step=step)
            faulthandler.dump_traceback_later(hang, exit=True, file=sys.stderr.fileno())

        try:
            found = validate_checkpoint(self.job, places.at(checkpoint), most, self.device, beat)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return finite(found) | {
            "device": self.device.type,
            "seconds": round(time.monotonic() - began, 3),
        }
