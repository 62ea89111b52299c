"""What the tests of the trainer share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.llm.folders import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("words")))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the workers have: the number of threads moves the last bit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
