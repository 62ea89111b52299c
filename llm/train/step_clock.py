"""What a logged line says of a step's time: throughput, utilisation, waits, goodput, memory."""

from __future__ import annotations

import time

from llm.data.loader import BatchLoader
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.group import Group
from llm.train.ledger import Ledger
from llm.train.mfu import Utilisation
from llm.train.peak_memory import peak_bytes


class StepClock:
    """Time of the steps themselves: validation, samples and the copy of a checkpoint are counted apart."""

    def __init__(
        self,
        group: Group,
        loader: BatchLoader,
        saver: CheckpointSaver,
        utilisation: Utilisation,
        ledger: Ledger | None,
    ) -> None:
        """`ledger`: the first worker's."""
        self.group, self.loader, self.saver = group, loader, saver
        self.utilisation, self.ledger = utilisation, ledger
        self.restart()

    def restart(self) -> None:
        """A step begins."""
        self._start = time.perf_counter()
        self._waited = self.loader.wait_seconds

    def lap(self, state: RunState, tokens: float) -> dict[str, float]:
        """The step on so many tokens that ends in `state` is over: what its line says of it."""
        seconds = time.perf_counter() - self._start
        rate = tokens / seconds
        if self.ledger is not None:
            self.ledger.useful += seconds
        return {
            "tokens": state.tokens,
            "samples": state.next_number,
            "tokens_per_second": rate,
            "step_seconds": seconds,
            "workers": self.group.world,
            "data_wait_seconds": self.loader.wait_seconds - self._waited,
            "checkpoint_stall_seconds": self.saver.stall_seconds,
            **self.utilisation.values(rate),
            **(self.ledger.values() if self.ledger is not None else {}),
        }

    def memory(self) -> dict[str, int]:
        """Most bytes that a worker has held: of the fullest one. All workers call it, on logged steps."""
        most = self.group.max([float(peak_bytes(self.group.device))])[0]
        return {"memory_bytes": int(most)} if most else {}
