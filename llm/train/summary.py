"""The summary of a finished run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster import places
from llm.model import Model
from llm.settings import PretrainSettings
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.save import best_of
from llm.train.guard import finite
from llm.train.run_folder import RunFolder, joined_lines, read_lines
from llm.train.validations import late_losses, numbers_of


def write_summary(
    folder: RunFolder,
    run_id: str,
    settings: PretrainSettings,
    parameters: int,
    state: RunState,
    last: Mapping[str, Any],
    workers: int,
) -> None:
    """The finished run in one file; that it exists says that the run is finished.

    `last`: the numbers of the validation after the last step; empty where there are no rows for one.
    """
    rows = joined_lines(folder)
    rates = sorted(row["tokens_per_second"] for row in rows if "tokens_per_second" in row)
    summary = {
        "finished": True,
        "run_id": run_id,
        "parameters": parameters,
        "workers": workers,
        "engine": settings.engine,
        "zero_stage": settings.zero_stage if settings.engine == "deepspeed" else None,
        "steps": state.step,
        "tokens": state.tokens,
        "loss": next((row["loss"] for row in reversed(rows) if row.get("loss") is not None), None),
        "first_val_loss": next((row["val_loss"] for row in rows if "val_loss" in row), None),
        "val_loss": last.get("val_loss"),
        "bits_per_byte": last.get("bits_per_byte"),
        **numbers_of(last),
        "tokens_per_second": rates[len(rates) // 2] if rates else None,
        "attempts": len({row["attempt"] for row in rows}),
        "skipped_steps": state.guard.skipped,
        "best_checkpoint": best_of(folder.checkpoints, late_losses(read_lines(folder.validation))),
        "state": asdict(state),
    }
    places.write_json(folder.summary, finite(summary))


def summarise(
    folder: RunFolder,
    run_id: str,
    settings: PretrainSettings,
    reader: CheckpointReader,
    last: Mapping[str, Any],
) -> None:
    """The summary of a run whose last checkpoint this is, written without the workers that trained it."""
    parameters = sum(math.prod(info.shape) for info in reader.tensors)
    write_summary(folder, run_id, settings, parameters, reader.state, last, reader.index["world"])


def model_size(model: Model) -> int:
    """Parameters of the whole model, also where ZeRO 3 has cut them up."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in model.parameters())
