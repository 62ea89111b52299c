"""The set-up: what it says of a machine that lacks something, what it mends. Nothing is installed here."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import setup_env
from cluster.setup_env import SetupError


def test_an_old_python_gets_far_enough_to_be_told() -> None:
    ast.parse(Path(setup_env.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))
    names = [
        n for n in ast.walk(ast.parse(Path(setup_env.__file__).read_text())) if isinstance(n, ast.ImportFrom)
    ]
    assert "__future__" not in {name.module for name in names}, "3.6 does not know `annotations`"


def test_a_python_that_is_not_tested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup_env, "OLDEST", (3, 98))
    monkeypatch.setattr(setup_env, "NEWEST", (3, 99))
    assert setup_env.main([]) == 2
    words = capsys.readouterr().err
    assert words.startswith("setup: Python 3.98 to 3.99 is needed; ")
    assert "make PYTHON=" in words


def test_all_that_is_missing_in_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    monkeypatch.setattr(setup_env.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SetupError) as error:
        setup_env.check_machine(new=True)
    version = setup_env.this_python()
    assert "venv module" in str(error.value) and "Python.h" in str(error.value) and "C++" in str(error.value)
    assert str(error.value).endswith(f"sudo apt install python{version}-venv python{version}-dev g++")


def test_no_room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(setup_env.NEED_GB, "cpu", 10**9)
    with pytest.raises(SetupError, match="GB are free under .* needs about 1000000000 GB"):
        setup_env.check_disk("cpu")


@pytest.mark.parametrize("gpu", [False, True])
def test_cuda_is_said_before_the_download(
    gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["torch", "nvidia-cublas", "cuda-bindings"]
    items = [{"metadata": {"name": name}, "download_info": {"url": "file:///x"}} for name in names]
    report = json.dumps({"install": items}).encode()
    monkeypatch.setattr(subprocess, "check_output", lambda *a, **k: report)
    monkeypatch.setattr(setup_env.os.path, "exists", lambda path: gpu and path == "/dev/nvidia0")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    monkeypatch.setitem(setup_env.NEED_GB, "cuda", 0)
    setup_env.warn_of_cuda("9.9", [])
    words = capsys.readouterr().out
    assert "CUDA build" in words
    assert ("no GPU" in words and f"make TORCH_INDEX={setup_env.CPU_INDEX}" in words) is not gpu


def test_a_build_without_cuda_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        subprocess, "check_output", lambda *a, **k: b'{"install": [{"metadata": {"name": "torch"}}]}'
    )
    setup_env.warn_of_cuda("9.9", [])
    assert "without CUDA" in capsys.readouterr().out


@pytest.fixture
def stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished set-up with the extra `dev`."""
    path = tmp_path / "setup.json"
    (tmp_path / "python").touch()
    monkeypatch.setattr(setup_env, "STAMP", str(path))
    monkeypatch.setattr(setup_env, "PYTHON", str(tmp_path / "python"))
    values = {
        "requirements": setup_env.requirements_hash(),
        "extras": ["dev"],
        "torch_index": "U",
        "python": "3.0",
    }
    path.write_text(json.dumps(values))
    return path


def test_what_is_up_to_date_is_skipped(stamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env, "install", lambda *a: pytest.fail("installs again"))
    assert setup_env.main([]) == 0
    assert setup_env.main(["--torch-index", "U"]) == 0


def test_what_is_not_up_to_date(stamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup_env.is_current(["dev"], "", False)
    assert not setup_env.is_current(["dev", "bench"], "", False), "another extra"
    assert not setup_env.is_current(["dev"], "V", False), "another index for torch"
    assert not setup_env.is_current(["dev"], "", True), "another Python, asked for"
    monkeypatch.setattr(setup_env, "requirements_hash", lambda: "other")
    assert not setup_env.is_current(["dev"], "", False), "other requirements"


@pytest.mark.parametrize("text", ["", "{"])
def test_a_stamp_that_cannot_be_read(text: str, stamp: Path) -> None:
    stamp.write_text(text)
    assert not setup_env.is_current(["dev"], "", False)


def install_package(site: Path, name: str) -> None:
    """A package with one module, as pip leaves it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text("x = 1\n")
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"{name}.py,sha256={digest},6\n{name}-1.0.dist-info/RECORD,,\n")


def test_a_damaged_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "cut", "gone", "unfinished"):
        install_package(tmp_path, name)
    (tmp_path / "cut.py").write_text("x")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "unfinished-1.0.dist-info" / "RECORD").unlink()
    (tmp_path / "~orch").mkdir()
    monkeypatch.setattr(setup_env, "site_packages", lambda: tmp_path)
    setup_env.drop_damaged()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.py", "whole-1.0.dist-info", "unfinished.py"}


def test_pip_sees_nothing_but_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    env = setup_env.pip_env()
    assert "PYTHONPATH" not in env and "PIP_TARGET" not in env
    assert env["PIP_USER"] == "0"
