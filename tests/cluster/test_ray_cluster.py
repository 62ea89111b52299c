"""ray_cluster.yaml against Ray's own schema, offline, with the rules of ours that Ray does not check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ray_cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def rays_own_check(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_ray_takes_it(config: dict[str, Any]) -> None:
    rays_own_check(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 3),
        (("available_node_types", "gpu", "resources"), {"GPU": "four"}),
        (("head_node_type",), "x"),
    ],
)
def test_rays_check_sees_mistakes(config: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    inner = config
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises(Exception, match=r"max_worker|four|head_node_type|x"):
        rays_own_check(config)


def test_the_head_stays_and_does_no_work(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"], "a spot head ends the cluster when it is taken"


def test_there_are_cpu_and_gpu_workers(config: dict[str, Any]) -> None:
    kinds = {
        bool(t["resources"].get("GPU")) for n, t in config["available_node_types"].items() if n != "head"
    }
    assert kinds == {True, False}


def test_nobody_without_the_token(config: dict[str, Any]) -> None:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[key] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start" in starts[0]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_dashboard_listens_on_the_head_alone(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_only_ssh_comes_in(config: dict[str, Any]) -> None:
    rules = config["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(22, 22)]


def test_no_secret_stands_in_it() -> None:
    assert not re.search(r"AKIA\w{16}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret|RAY_AUTH_TOKEN=", TEXT)


def test_what_is_copied_is_there(config: dict[str, Any]) -> None:
    """And is enough for `make setup`, which each node runs."""
    mounts = {remote: local for remote, local in config["file_mounts"].items() if local[0] != "~"}
    assert all((ROOT / local).exists() for local in mounts.values())
    assert set(mounts.values()) == {
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "cluster",
        "data_jobs",
        "llm",
    }


def test_a_gpu_node_takes_the_cuda_build(config: dict[str, Any]) -> None:
    gpu = config["available_node_types"]["gpu"]["worker_setup_commands"]
    assert "TORCH_INDEX" not in " ".join(gpu)
    assert "TORCH_INDEX" in " ".join(config["worker_setup_commands"])
