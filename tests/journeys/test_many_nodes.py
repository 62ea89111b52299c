"""A job over several nodes: real Ray, two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.test_pretrain import Home


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_a_relative_output_is_refused(address: str, tmp_path: Path) -> None:
    """Each node would write to a folder of its own: exit 2 with the key to set, before any worker starts."""
    home = Home(tmp_path)
    job = ("--cluster.address", address)
    out = home.call(
        "data_jobs.prepare", str(home.recipe), "--corpus.out", "runs/nowhere/corpus", *job, status=2
    )
    assert "corpus.out" in out and "several nodes" in out and "Traceback" not in out, out
    home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
    relative = ("--pretrain.corpus", str(home.corpus), "--pretrain.out", "runs/nowhere/pretrain")
    out = home.call("llm.pretrain", str(home.recipe), *relative, *job, status=2)
    assert "--pretrain.out" in out and "several nodes" in out and "Traceback" not in out, out
    assert not (Path(__file__).resolve().parents[2] / "runs/nowhere").exists()
