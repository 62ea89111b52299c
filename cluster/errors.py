"""What a command says when it cannot go on, and the exit status that goes with it."""

from __future__ import annotations

import difflib
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """What the user gave is wrong (exit 2). The text names the file, line or field, and what to do."""


class RunError(Exception):
    """The work failed (exit 1) for a reason that we can name: damaged data, a lost worker, a full disk."""


class Stopped(BaseException):
    """SIGTERM arrived (exit 143). A BaseException, so that no `except Exception` swallows it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the nearest one, or nothing."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def run_command(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run `main` as a command and exit: 0 done, 1 failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    again = f"the same command continues: {shlex.join(sys.orig_argv)}"
    try:
        status = main(sys.argv[1:] if argv is None else argv) or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print(f"stopped by Ctrl-C; {again}", file=sys.stderr)
        status = 130
    except Stopped:
        print(f"stopped by SIGTERM; {again}", file=sys.stderr)
        status = 143
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        status = 1
    sys.exit(status)


def _output_is_closed() -> bool:
    """Whether the reader of our output went away (`... | head`). If so, what is left to write is dropped."""
    output = select.poll()
    output.register(1, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _raise_stopped(signum: int, frame: FrameType | None) -> None:
    raise Stopped
