"""The `cluster` section of a recipe: which machines the work runs on."""

from __future__ import annotations

from cluster.fields import Settings, free


class ClusterSettings(Settings):
    """Where Ray is, and how much of this machine it may use."""

    address: str | None = free(
        None, "address of a running Ray cluster; without one, Ray is started on this machine for the command"
    )
    num_cpus: int | None = free(
        None, "CPUs that Ray may use when it is started on this machine (default: all)", ge=1
    )


SECTIONS = {"cluster": ClusterSettings}
