"""What every test gets: a quiet environment for its processes, and one Ray for those that are marked so."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from cluster import places
from cluster.places import Place
from tests import object_store
from tests.object_store import S3

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch, Ray or W&B; the processes that tests start inherit it.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # two processes with two thread pools each are slower on two cores
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray Train asks its workers each 2 s by default, and every `report` waits for that.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
)
# A shell that starts us in the background (`make test &`) makes all that we start deaf to Ctrl-C: tests of it
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("no deadline", deadline=None)  # how long a thing takes is no test
hypothesis.settings.load_profile("no deadline")
os.environ.pop("RAY_ADDRESS", None)  # never somebody's cluster
os.environ["PYTHONPATH"] = str(ROOT)  # Ray's workers import the packages wherever a test stands
RAY_FOLDER = os.environ.get("RAY_TMPDIR")
NO_FOLDER = "/dev/null/this test is not marked ray"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses Ray is marked by it, and has the time that Ray takes to start on a loaded machine."""
    for item in items:
        if "ray_here" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Only tests that are marked can start Ray: others are run beside each other, and two are too much."""
    folder = RAY_FOLDER if item.get_closest_marker("ray") else NO_FOLDER
    if folder is None:
        os.environ.pop("RAY_TMPDIR", None)
    else:
        os.environ["RAY_TMPDIR"] = folder


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 on this machine."""
    with object_store.start() as server:
        yield server


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of its own, `s3://...`; what a test starts finds it, too."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture(params=["local", "object store"])
def place(request: pytest.FixtureRequest) -> Place:
    """A folder of each kind."""
    if request.param == "local":
        return places.at(str(request.getfixturevalue("tmp_path")))
    return places.at(request.getfixturevalue("bucket")) / "in" / "here"


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One Ray on this machine for all tests that need it. Four CPUs by name: they share what is there."""
    import ray

    # Short, for the limit of 107 characters for socket paths; its own, so that no other Ray is touched.
    folder = tempfile.mkdtemp(prefix="ray")
    ray.init(address="local", num_cpus=4, _temp_dir=folder, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
