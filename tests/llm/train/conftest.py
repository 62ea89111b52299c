"""What the tests of the trainer share."""

from __future__ import annotations

import pytest

from tests.llm.folders import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("words")))
