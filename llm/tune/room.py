"""Room for trials: what each needs, how many a cluster holds, and what is missing where it holds none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from cluster.settings import ClusterSettings
from llm.run_settings import RunSettings
from llm.sweep_settings import SweepSettings

WAIT_SECONDS = 20.0  # for nodes of a cluster that may grow, before it is said that nothing comes
POLL_SECONDS = 0.5
Node = Mapping[str, float]


@dataclass(frozen=True)
class Need:
    """Of one trial: `fewest` to `most` workers, each with this bundle, which must lie on one node."""

    fewest: int
    most: int
    bundle: Mapping[str, float]

    def __str__(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())
        workers = str(self.most) if self.most == self.fewest else f"{self.fewest} to {self.most}"
        return f"{workers} worker{'s' * (self.most > 1)} with {each} each"


def need_of(run: RunSettings, sweep: SweepSettings, nodes: Sequence[Node]) -> Need:
    """What a trial's workers get. CPUs that nobody says are shared evenly among the trials at a time.

    Without a GPU each worker gets as many as are left over where `max_concurrent` trials run at once, else 1:
    many trials with one thread each do more than few with many.
    """
    total = _sum(nodes)
    gpus = total.get("GPU", 0.0)
    gpu = run.device == "cuda" or (run.device == "auto" and gpus >= run.workers.min)
    cpus = run.cpus_per_worker
    if cpus is None:
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
        if gpu and gpus:
            cpus = int(total.get("CPU", 0) // gpus)
        elif sweep.max_concurrent:
            cpus = int(total.get("CPU", 0) // (sweep.max_concurrent * run.workers.max))
        cpus = max(1, min(cpus or 1, largest))
    return Need(run.workers.min, run.workers.max, {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {}))


def workers_that_fit(nodes: Sequence[Node], bundle: Mapping[str, float]) -> int:
    """Bundles that the nodes hold together."""
    return sum(int(min(node.get(name, 0.0) // amount for name, amount in bundle.items())) for node in nodes)


def trials_that_fit(nodes: Sequence[Node], need: Need) -> int:
    """Trials that run at the same time; 0: not even one."""
    workers = workers_that_fit(nodes, need.bundle)
    return 0 if workers < need.fewest else max(1, workers // need.most)


def missing(nodes: Sequence[Node], need: Need) -> str:
    """What a trial lacks, in words."""
    total = _sum(nodes)
    has = ", ".join(f"{total.get(name, 0):g} {name}" for name in need.bundle) or "nothing"
    largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in need.bundle}
    small = [f"{amount:g} {name} (most: {largest[name]:g})" for name, amount in need.bundle.items()
             if largest[name] < amount]  # fmt: skip
    words = f"the cluster has {has}, room for {workers_that_fit(nodes, need.bundle)} such workers"
    return words + (f"; no node has {' or '.join(small)}" if small else "")


def concurrent_trials(
    run: RunSettings,
    sweep: SweepSettings,
    cluster: ClusterSettings,
    say: Callable[[str], None],
    nodes_now: Callable[[], Sequence[Node]] | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> tuple[Need, int]:
    """What a trial needs, and how many run at a time. Ray must be initialised.

    `nodes_now`: resources of the nodes that are there (default: Ray's).
    A cluster that may grow is asked to, and waited for; one whose autoscaler brings nodes is taken at its
    word. UserError where not even one trial can ever be placed: what it needs, and what is missing.
    """
    from cluster.ray_runtime import address_of

    nodes_now = nodes_now or _nodes
    nodes = nodes_now()
    need = need_of(run, sweep, nodes)
    room = trials_that_fit(nodes, need)
    grows = address_of(cluster) is not None
    if not room and grows:
        until = time.monotonic() + wait_seconds
        say(f"a trial needs {need}; {missing(nodes, need)}: waiting {wait_seconds:.0f} s for nodes")
        with _Request(need):
            while not room and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                nodes = nodes_now()
                need = need_of(run, sweep, nodes)
                room = trials_that_fit(nodes, need)
            coming = "" if room else nodes_on_their_way(_autoscaler_status())
        if coming:
            say(f"nodes are on their way ({coming}): the first trial begins when they are there")
            room = 1
    if not room:
        section = run.section
        raise UserError(
            f"no trial can ever be placed: each needs {need} ({section}.workers, {section}.cpus_per_worker, "
            f"{section}.device), and {missing(nodes, need)}"
            + (f"; no node came within {wait_seconds:.0f} s" if grows else "")
        )
    if sweep.max_concurrent:
        if sweep.max_concurrent > room and not grows:
            say(f"sweep.max_concurrent is {sweep.max_concurrent}; there is room for {room} trials at a time")
        room = min(room, sweep.max_concurrent) if not grows else sweep.max_concurrent
    return need, room


def nodes_on_their_way(status: Mapping[str, Any]) -> str:
    """Of an autoscaler's report: nodes that it has asked for and that are not there yet; empty: none."""
    report = status.get("autoscaler_report") or {}
    words = [f"{count} {kind}" for kind, count in (report.get("pending_launches") or {}).items()]
    words += [str(node[1] if isinstance(node, list | tuple) and len(node) > 1 else node)
              for node in report.get("pending_nodes") or []]  # fmt: skip
    return ", ".join(words)


class _Request:
    """Asks the autoscaler, where there is one, for a trial's room; the wish is taken back at the end."""

    def __init__(self, need: Need) -> None:
        self.bundles = [dict(need.bundle)] * need.fewest

    def __enter__(self) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=self.bundles)

    def __exit__(self, *_: object) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[])


def _autoscaler_status() -> dict[str, Any]:
    """What Ray's autoscaler last said; empty where there is none."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    raw = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    try:
        value: dict[str, Any] = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return value


def _nodes() -> list[Node]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _sum(nodes: Sequence[Node]) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            total[name] = total.get(name, 0.0) + amount
    return total
