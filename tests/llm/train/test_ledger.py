"""The run's account of its time, on a disk and in an object store."""

from __future__ import annotations

import time

import pytest

from cluster.lease import Superseded
from cluster.places import Place
from llm.train.ledger import Ledger, read_clock


def opened(place: Place, launch: str, **more: object) -> Ledger:
    return Ledger(place / "tracking.json", None, launch, time.time(), {"mfu": {"length": 16}}, **more)  # type: ignore[arg-type]


def test_restarts_are_counted_over_commands(place: Place) -> None:
    for number, launch in enumerate(("one", "one", "two")):
        ledger = opened(place, launch)
        assert ledger.values()["restarts"] == number
        assert ledger.is_first_of_launch == (number != 1)
    assert b'"mfu":{"length":16}' in (place / "tracking.json").read_bytes()


def test_useful_seconds_go_on_from_the_last_line_that_counts(place: Place) -> None:
    ledger = opened(place, "one")
    ledger.go_back({"step": 5, "useful_seconds": 12.5})
    ledger.useful += 1.5
    assert ledger.values()["useful_seconds"] == 14
    ledger.go_back(None)
    assert ledger.values()["useful_seconds"] == 0


def test_the_end_is_kept(place: Place) -> None:
    ledger = opened(place, "one")
    begun = read_clock(place / "tracking.json")
    ledger.close()
    ended = read_clock(place / "tracking.json")
    assert begun is not None and ended is not None and ended.seen > begun.seen


def test_who_was_followed_writes_nothing_more(place: Place) -> None:
    def followed() -> None:
        raise Superseded("another writes")

    ledger = opened(place, "one", check_writer=followed)
    before = (place / "tracking.json").read_bytes()
    ledger.close()
    assert (place / "tracking.json").read_bytes() == before


def test_a_damaged_record_is_passed_over(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    opened(place, "one")
    file = place / "tracking.json"
    file.write_bytes(file.read_bytes().replace(b'"attempts":1', b'"attempts":7'))
    assert opened(place, "two").values()["restarts"] == 0
    assert "warning" in (told := capsys.readouterr().err) and "tracking.json" in told and "digest" in told
