"""Ray Data: a task over jobs on a cluster. The one file that imports ray.data.

One row is one job, one block is one row: Ray schedules, retries after a lost worker, and hands back one
row of metadata a job. No text and no token passes through Ray: tasks read and write files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from cluster.errors import RunError, UserError
from cluster.settings import ClusterSettings
from data_jobs.work import Job, Task, run_and_commit


class RayRunner:
    """A `Runner` inside a `with`: Ray starts with the block, and ends with it where we started it.

    Ray is imported here and not above, because a command that finds nothing to do shall be quick.
    """

    def __init__(self, cluster: ClusterSettings, out: str) -> None:
        self._cluster, self._out = cluster, out
        self._session = ExitStack()

    def __enter__(self) -> RayRunner:
        from cluster.ray_runtime import check_one_node, check_output_place, ray_session

        with ExitStack() as session:
            session.enter_context(ray_session(self._cluster))
            check_output_place(self._out, "corpus.out")
            check_one_node(self._out, "corpus.out")
            self._session = session.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def __call__(self, task: Task, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Run the task over the jobs; raises what the first failed one said."""
        import ray.data

        # Its notices of every execution's start and plan are not for the user of this command.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        rows = [{"job": json.dumps(job)} for job in jobs]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_Call(task))
        for row in done.iter_rows():
            answer = json.loads(row["answer"])
            if "user_error" in answer:
                raise UserError(answer["user_error"])
            if "run_error" in answer:
                raise RunError(answer["run_error"])
            yield answer


class _Call:
    """The task as Ray Data wants it. What went wrong comes back as a row: Ray would retry an exception."""

    def __init__(self, task: Task) -> None:
        self._task = task
        # A function, not an actor class: state of a task lives in module-level caches.
        self.__name__ = task.__name__

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = {"done": bool(run_and_commit(self._task, json.loads(row["job"])))}
        except UserError as error:
            answer = {"user_error": str(error)}
        except RunError as error:
            answer = {"run_error": str(error)}
        return {"answer": json.dumps(answer)}
