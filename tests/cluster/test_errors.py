"""Exit statuses of commands, by real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def command(body: str) -> list[str]:
    """A command whose `main` has this body."""
    head = "import os, sys, time\nfrom cluster.errors import RunError, UserError, run_command\n"
    main = "def main(argv):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return [sys.executable, "-c", f"{head}{main}\nrun_command(main)", "recipe", "--a.b", "two words"]


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(body), capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("return None", 0, ""),
        ("print('done')", 0, ""),
        ("return 1", 1, ""),
        ("raise RunError('worker 3 is gone')", 1, "failed: worker 3 is gone\n"),
        ("raise UserError('a.yaml:3: no')", 2, "error: a.yaml:3: no\n"),
    ],
)
def test_status_and_message(body: str, status: int, words: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (status, words)


def test_a_bug_keeps_its_traceback() -> None:
    done = run("return [][1]")
    assert done.returncode == 1
    assert "IndexError" in done.stderr


def test_broken_pipe_of_something_else_is_not_hidden() -> None:
    done = run("r, w = os.pipe(); os.close(r); os.write(w, b'x')")
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    many = subprocess.Popen(
        command("for i in range(200_000): print(i)"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert many.stdout is not None and many.stderr is not None
    many.stdout.readline()
    many.stdout.close()
    assert many.wait(30) == 1
    assert many.stderr.read() == b""
    many.stderr.close()


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_signals(number: signal.Signals, status: int, name: str, tmp_path: Path) -> None:
    """Stopped after its cleaning up, with the line that continues; `except Exception` does not stop it."""
    body = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            while True:
                try:
                    print("ready", flush=True)
                    time.sleep(20)
                except Exception:
                    pass
        finally:
            open({str(tmp_path / "saved")!r}, "w").close()
    """
    process = subprocess.Popen(command(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    try:
        _, words = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status
    assert words.startswith(f"stopped by {name}; the same command continues: ")
    assert words.endswith("recipe --a.b 'two words'\n")
    assert (tmp_path / "saved").exists()
