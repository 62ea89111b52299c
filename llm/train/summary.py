"""summary.json: the finished run in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cluster import places
from llm.model import Model
from llm.run_settings import RunSettings
from llm.settings import FinetuneSettings
from llm.train.accounts import totals
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.save import best_of
from llm.train.guard import finite
from llm.train.ledger import Ledger
from llm.train.mfu import Utilisation
from llm.train.run_folder import RunFolder, joined_lines, read_lines
from llm.train.validations import late_losses


def write_summary(
    folder: RunFolder,
    run_id: str,
    settings: RunSettings,
    model: Model,
    state: RunState,
    last: dict[str, Any],
    workers: int,
    utilisation: Utilisation,
    ledger: Ledger | None,
) -> None:
    """That the file exists says that the run is finished.

    `last`: the last logged values. Where others validate, theirs is the last word: then what is known without
    them goes to another file.
    """
    rows = list(joined_lines(folder))
    first = next((row["val_loss"] for row in rows if "val_loss" in row), None)
    summary = {
        "finished": True,
        "run_id": run_id,
        "parameters": model_size(model),
        "workers": workers,
        "engine": settings.engine,
        "zero_stage": settings.zero_stage if settings.engine == "deepspeed" else None,
        "steps": state.step,
        "tokens": state.tokens,
        "loss": next((row["loss"] for row in reversed(rows) if row.get("loss") is not None), None),
        "first_val_loss": first,
        "val_loss": last.get("val_loss"),
        "bits_per_byte": last.get("bits_per_byte"),
        **{name: value for name, value in last.items() if name.startswith("val_")},
        **totals(rows, utilisation, ledger),
        "attempts": len({row["attempt"] for row in rows}),
        "skipped_steps": state.guard.skipped,
        "best_checkpoint": best_of(folder.checkpoints, late_losses(read_lines(folder.validation))),
        **(_best(folder, settings, state, rows) if isinstance(settings, FinetuneSettings) else {}),
        "state": asdict(state),
    }
    beside = settings.validation.where == "workers"
    places.write_json(folder.trained if beside else folder.summary, finite(summary))


def _best(
    folder: RunFolder, settings: FinetuneSettings, state: RunState, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Of a fine-tuning: the numbers of its best checkpoint, and whether it ended early."""
    kept = best_of(folder.checkpoints, {})
    step = state.step if kept is None else kept["step"]
    row: dict[str, Any] = next((row for row in reversed(rows) if row["step"] == step), {})
    return {
        "stopped_early": state.step < settings.steps,
        "best_by": settings.best_by,
        "best": {"step": step, **{n: v for n, v in row.items() if n.startswith("val_")}},
    }


def model_size(model: Model) -> int:
    """Parameters of the whole model, also where ZeRO 3 has cut them up."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in model.parameters())
