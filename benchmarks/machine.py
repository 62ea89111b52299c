"""Where and with what a benchmark was measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Any

from cluster.recipe import ROOT
from llm.train.run_folder import environment


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU, and the load average over 1, 5 and 15 minutes as it is now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gb": round(memory / 1e9, 1),
        "gpu": _gpus(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def describe_versions() -> dict[str, Any]:
    """Libraries, and the commit; `-dirty` where the tree, but for kept results, differs from it."""
    git = ("git", "-C", str(ROOT))
    commit = _said(*git, "describe", "--always")
    changed = _said(*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    return environment() | {"commit": f"{commit}-dirty" if commit and changed else commit}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> str:
    return _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").replace("\n", ", ") or "none"


def _said(*command: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
