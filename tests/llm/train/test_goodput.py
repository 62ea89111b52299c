"""The run's time: workers that start again, commands that are killed, nights between two commands."""

from __future__ import annotations

import pytest

from llm.train.goodput import RunClock, goodput, next_attempt


def test_a_new_run_is_worked_on_since_its_command_began() -> None:
    clock = next_attempt(None, None, "one", began=100, now=130)
    assert (clock.restarts, clock.wall(130), clock.wall(200)) == (0, 30, 100)


def test_workers_that_start_again_go_on_with_the_same_time() -> None:
    clock = next_attempt(None, None, "one", began=100, now=130)
    again = next_attempt(clock, {"time": 150, "wall_seconds": 50}, "one", began=100, now=170)
    assert (again.restarts, again.wall(200)) == (1, 100)


def test_the_time_between_two_commands_does_not_count() -> None:
    clock = next_attempt(None, None, "one", began=100, now=110)
    ended = RunClock(clock.launch, clock.began, clock.before, clock.attempts, seen=180)  # in good order
    again = next_attempt(ended, {"time": 170, "wall_seconds": 70}, "two", began=10_000, now=10_020)
    assert (again.restarts, again.wall(10_020)) == (1, 80 + 20)
    third = next_attempt(again, {"time": 10_100, "wall_seconds": 180}, "three", began=20_000, now=20_005)
    assert (third.restarts, third.wall(20_005)) == (2, 80 + 100 + 5)


def test_a_command_killed_hard_counts_up_to_its_last_line() -> None:
    """Also where the line is of a step that is lost now."""
    clock = next_attempt(None, None, "one", began=100, now=110)
    again = next_attempt(clock, {"time": 400, "wall_seconds": 300}, "two", began=5000, now=5010)
    assert again.wall(5010) == 300 + 10
    without_a_line = next_attempt(clock, None, "two", began=5000, now=5010)
    assert without_a_line.wall(5010) == 10 + 10


def test_no_second_counts_twice() -> None:
    """A command that waited until the one before had ended; clocks of two machines that differ."""
    clock = RunClock("one", began=100, before=0, attempts=1, seen=200)
    assert next_attempt(clock, None, "two", began=150, now=230).wall(230) == 100 + 30
    ahead = next_attempt(clock, {"time": 300, "wall_seconds": 200}, "two", began=250, now=260)
    assert ahead.wall(260) == 200 and ahead.wall(270) == 210


def test_a_lost_record_is_made_up_from_the_lines() -> None:
    clock = next_attempt(None, {"time": 400, "wall_seconds": 300}, "two", began=5000, now=5010)
    assert clock.wall(5010) == 310


def test_a_run_from_before_there_were_records() -> None:
    clock = next_attempt(None, {"time": 400, "step": 7}, "two", began=5000, now=5010)
    assert (clock.restarts, clock.wall(5010)) == (0, 10)


def test_goodput_is_a_share() -> None:
    assert goodput(75, 100) == 0.75
    assert goodput(0, 0) == 0


def test_a_record_of_another_form_is_refused() -> None:
    with pytest.raises(TypeError):
        RunClock.from_json({"launch": "one"})
