"""One corpus, and one run that is never stopped, for all journeys of a GPT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journeys.home import Home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.prepare()
    return home


@pytest.fixture(scope="session")
def whole(home: Home) -> Path:
    """Two ZeRO-1 workers on Ray, never stopped."""
    home.pretrain("whole")
    return home.path / "whole"
