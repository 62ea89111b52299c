"""The Weights & Biases run: the one file that imports wandb."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb

from llm.settings import WandbSettings

STEP = "step"


class WandbRun:
    """One run over all restarts, on the first worker. Whatever W&B does, training goes on.

    After a restart, `earlier` (the kept lines of metrics.jsonl) is sent again where W&B has not got it:
    a killed process takes its unwritten W&B buffer with it.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        settings: WandbSettings,
        config: dict[str, Any],
        earlier: Iterable[dict[str, Any]],
    ) -> None:
        self._run: Any = None
        try:
            self._run = wandb.init(
                project=settings.project,
                id=run_id,
                name=run_id,
                dir=str(folder),
                config=config,
                mode=_mode(settings),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True, init_timeout=60),
            )
            self._run.define_metric(STEP)
            self._run.define_metric("*", step_metric=STEP)
            has = self._run.summary.get(STEP, -1)  # the last that the server has; nothing offline
            for row in earlier:
                if row[STEP] > has:
                    self._run.log(row)
        except Exception as error:  # wandb raises its own and others' errors; none may end a training
            self._give_up(error)

    def log(self, values: dict[str, Any]) -> None:
        if self._run is not None:
            try:
                self._run.log(values)
            except Exception as error:
                self._give_up(error)

    def go_back(self, step: int) -> None:
        """W&B's history only grows: the steps come again under their numbers, and the last line counts."""

    def finish(self, exit_code: int) -> None:
        if self._run is not None:
            try:
                self._run.finish(exit_code=exit_code)
            except Exception as error:
                self._give_up(error)
            self._run = None

    def _give_up(self, error: Exception) -> None:
        self._run = None
        print(
            f"warning: W&B is left out from here on, training goes on: {error}", file=sys.stderr, flush=True
        )


def _mode(settings: WandbSettings) -> Any:
    if settings.mode != "auto":
        return settings.mode
    has_key = bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False)
    return os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
