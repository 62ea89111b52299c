"""Room for trials: what they need, how many fit, and what is said where none does."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import UserError
from cluster.settings import ClusterSettings
from llm.settings import PretrainSettings, SweepSettings
from llm.tune.room import Need, concurrent_trials, missing, need_of, nodes_on_their_way, trials_that_fit

LAPTOP = [{"CPU": 2.0, "memory": 8e9}]
BOX = [{"CPU": 16.0, "GPU": 4.0}] * 2


def needs(nodes: Any, sweep: dict[str, Any] | None = None, **run: Any) -> Need:
    return need_of(
        PretrainSettings.model_validate({"batch": 64, **run}),
        SweepSettings.model_validate(sweep or {}),
        nodes,
    )


def test_cpus_are_shared_among_the_trials_at_a_time() -> None:
    assert needs(LAPTOP) == Need(1, 1, {"CPU": 1.0})
    assert needs(LAPTOP, {"max_concurrent": 1}).bundle == {"CPU": 2.0}
    assert needs([{"CPU": 16.0}], {"max_concurrent": 2}, workers=4).bundle == {"CPU": 2.0}
    assert needs(LAPTOP, cpus_per_worker=2).bundle == {"CPU": 2.0}
    assert needs(LAPTOP, {"max_concurrent": 9}).bundle == {"CPU": 1.0}


def test_with_gpus_each_worker_has_one() -> None:
    assert needs(BOX) == Need(1, 1, {"CPU": 4.0, "GPU": 1.0})
    assert needs(BOX, device="cpu").bundle == {"CPU": 1.0}
    assert trials_that_fit(BOX, needs(BOX)) == 8
    assert trials_that_fit(BOX, needs(BOX, workers=3)) == 2
    assert needs(LAPTOP, device="cuda").bundle == {"CPU": 1.0, "GPU": 1.0}


def test_a_worker_lies_on_one_node_and_a_trial_may_span_them() -> None:
    assert trials_that_fit([{"CPU": 3.0}, {"CPU": 3.0}], Need(1, 1, {"CPU": 2.0})) == 2
    assert trials_that_fit([{"CPU": 1.0}] * 4, Need(3, 3, {"CPU": 1.0})) == 1
    assert trials_that_fit([{"CPU": 1.0}] * 4, Need(1, 1, {"CPU": 2.0})) == 0
    assert trials_that_fit([{"CPU": 1.0}] * 2, Need(2, 8, {"CPU": 1.0})) == 1, "elastic: the fewest will do"
    assert trials_that_fit([], Need(1, 1, {"CPU": 1.0})) == 0


def test_what_is_missing_is_said() -> None:
    words = missing([{"CPU": 2.0}, {"CPU": 4.0}], Need(1, 1, {"CPU": 8.0, "GPU": 1.0}))
    assert "the cluster has 6 CPU, 0 GPU, room for 0 such workers" in words
    assert "no node has 8 CPU (most: 4) or 1 GPU (most: 0)" in words


def test_what_an_autoscaler_brings() -> None:
    assert nodes_on_their_way({}) == ""
    assert nodes_on_their_way({"autoscaler_report": {"pending_nodes": [], "pending_launches": {}}}) == ""
    report = {"pending_launches": {"gpu": 2}, "pending_nodes": [["10.0.0.1", "cpu", "setting-up"]]}
    assert nodes_on_their_way({"autoscaler_report": report}) == "2 gpu, cpu"


def asked(nodes: Any, sweep: dict[str, Any], **run: Any) -> Any:
    """With these nodes, as a Ray that was started here has them."""
    settings = PretrainSettings.model_validate({"batch": 64, **run})
    return concurrent_trials(
        settings, SweepSettings.model_validate(sweep), ClusterSettings(), lambda text: None, lambda: nodes
    )


def test_how_many_run_at_a_time() -> None:
    assert asked(LAPTOP, {})[1] == 2
    assert asked(LAPTOP, {"max_concurrent": 1})[1] == 1
    assert asked(LAPTOP, {"max_concurrent": 5})[1] == 2


def test_what_can_never_be_placed_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        asked(LAPTOP, {}, workers=4, cpus_per_worker=2)
    text = str(caught.value)
    for word in ("no trial can ever be placed", "4 workers with 2 CPU each", "pretrain.workers", "has 2 CPU"):
        assert word in text, text
