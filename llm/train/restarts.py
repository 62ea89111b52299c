"""How often a group of workers was started in a row without a new checkpoint, and when that is enough.

What counts is progress: a run on machines that come and go is restarted dozens of times, and a run that fails
at the same step again and again is not worth a fourth start.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from cluster import places
from cluster.errors import RunError
from llm.train.run_folder import RunFolder


def count_start(folder: RunFolder, launch: str, step: int, most: int) -> None:
    """Note one more start of this launch from `step`. RunError where it is more than `most` + 1 in a row.

    Called by the first worker, before it trains.
    """
    before = _read(folder)
    same = (before.get("launch"), before.get("step")) == (launch, step)
    starts = before.get("starts", 0) + 1 if same else 1
    cause = before.get("cause", "") if before.get("launch") == launch else ""
    if starts > most + 1:
        good = f"the checkpoint of step {step} is the last good one" if step else "there is no checkpoint yet"
        raise RunError(
            f"the workers failed {starts - 1} times in a row from step {step} (max_failures {most}); "
            f"{good}, and the same command continues. The last failure: {cause or 'a process was lost'}"
        )
    places.write_json(folder.restarts, {"launch": launch, "step": step, "starts": starts, "cause": cause})


def remember_cause(folder: RunFolder, cause: str) -> None:
    """Keep why the group failed."""
    with contextlib.suppress(OSError):
        places.write_json(folder.restarts, _read(folder) | {"cause": cause}, new_folder=False)


def _read(folder: RunFolder) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(folder.restarts.read_bytes())
    except (OSError, ValueError):
        return {}
    return value
