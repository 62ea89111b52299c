"""The Weights & Biases run, in a process of its own: the one file that imports wandb.

Started by wandb_feed.py. Its first line of input says which run it is; the others are rows, and last the exit
code. It answers with a line when the run is open, and with one when it is over. What W&B brings with it (its
service, threads, hooks at the interpreter's end, waits for a server) stays in here, and dies with it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import wandb

STEP = "step"
LOOK_SECONDS = 1.0  # between two looks whether the trainer is still there
ORPHAN_SECONDS = 5.0  # to end, where it is not: what W&B has not got is sent again after the restart
TEARDOWN_SECONDS = 5.0
KEEP_TRYING = 1_000_000  # an outage of any length, while the training is on
NICENESS = 10  # where all cores are busy, training goes first

Line = tuple[str, Any]


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m llm.train.wandb_run",
        description="The process that speaks to W&B for a training, which starts it by itself.",
    ).parse_args()
    os.nice(NICENESS)
    answers = _own_output()
    told = json.loads(sys.stdin.buffer.readline())
    lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        run, opened = _open(told)
        _answer(answers, opened)
        exit_code = _pass_on(run, lines, told["trainer"])
        if run is not None:
            patience = ORPHAN_SECONDS if exit_code is None else told["patience"] + TEARDOWN_SECONDS
            _answer(answers, {"sent": _end(run, 1 if exit_code is None else exit_code, patience)})
    except Exception as error:  # wandb raises its own and others' errors
        _answer(answers, {"error": _in_a_line(error)})
    sys.stderr.flush()
    os._exit(0)  # whatever thread or hook of W&B is still waiting for its server


def _open(told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The run, and what is answered: how it is kept, where, the last step that the server has, and why it is
    not online where it should be."""
    mode, why = told["mode"] if told["mode"] != "auto" else _found_mode(), ""
    if mode == "disabled":
        return None, {"mode": mode, "folder": "", "has": -1}
    try:
        run = _init(told, mode)
    except Exception as error:
        if mode != "online":
            raise
        mode, why = "offline", _in_a_line(error)
        if not _within(TEARDOWN_SECONDS, wandb.teardown):  # its service has the run's id still
            raise
        run = _init(told, mode)
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    has = run.summary.get(STEP, -1)  # nothing offline
    return run, {"mode": mode, "folder": str(Path(run.dir).parent), "has": has, "why": why}


def _init(told: dict[str, Any], mode: Any) -> Any:
    return wandb.init(
        project=told["project"],
        group=told.get("group"),
        job_type=told.get("job_type"),
        id=told["run_id"],
        name=told["run_id"],
        dir=told["folder"],
        config=told["config"],
        mode=mode,
        resume="allow",
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=told["patience"],
            finish_timeout=told["patience"],
            finish_timeout_raises=True,
            x_file_stream_retry_max=KEEP_TRYING,
            x_stats_pid=told["trainer"],
        ),
    )


def _found_mode() -> Any:
    """Online where there is a key; no server is asked."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    wandb.setup(wandb.Settings(silent=True))
    has_key = bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False, verify=False)
    return "online" if has_key else "offline"


def _pass_on(run: Any, lines: queue.SimpleQueue[Line | None], trainer: int) -> int | None:
    """Log rows until the last line, which is the exit code; None where the trainer went away before it."""
    while True:
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if os.getppid() != trainer:  # another process that it forked may hold the pipe open
                return None
            continue
        if line is None:
            return None
        kind, value = line
        if kind == "exit":
            return int(value)
        if run is not None:
            run.log(value)


def _end(run: Any, exit_code: int, seconds: float) -> bool:
    """Finish the run; whether that went through in time, so that W&B has all (offline: the file)."""
    went_through = []

    def finish() -> None:
        try:
            run.finish(exit_code=exit_code)
            went_through.append(True)
        except Exception as error:  # TimeoutError, or whatever wandb raises where it cannot send
            print(f"{type(error).__name__}: {error}", file=sys.stderr)

    _within(seconds, finish)
    _within(TEARDOWN_SECONDS, wandb.teardown)
    return bool(went_through)


def _within(seconds: float, work: Callable[[], Any]) -> bool:
    """Run `work`, and leave it alone where it takes longer; whether it came to its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _read(lines: queue.SimpleQueue[Line | None]) -> None:
    """Lines of the input as they come, however long W&B takes; None at its end."""
    for line in sys.stdin.buffer:
        if line.endswith(b"\n"):
            kind, value = json.loads(line)
            lines.put((kind, value))
    lines.put(None)


def _own_output() -> TextIO:
    """The output for answers alone: what others print goes to the errors."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _answer(to: TextIO, value: dict[str, Any]) -> None:
    try:
        to.write(json.dumps(value) + "\n")
        to.flush()
    except OSError:  # nobody listens any more
        pass


if __name__ == "__main__":
    sys.exit(main())
