"""The `cluster` section of a recipe: which machines the work runs on."""

from __future__ import annotations

from cluster.cache import Cache
from cluster.fields import Settings, free


class ClusterSettings(Settings):
    """Where Ray is, and how much of this machine it may use."""

    address: str | None = free(
        None, "address of a running Ray cluster; without one, Ray is started on this machine for the command"
    )
    num_cpus: int | None = free(
        None, "CPUs that Ray may use when it is started on this machine (default: all)", ge=1
    )
    cache_dir: str | None = free(
        None, "folder on a disk of each machine for what is read from an object store (default: manta in "
        "XDG_CACHE_HOME, which is ~/.cache)"
    )  # fmt: skip
    cache_bytes: int | None = free(
        None, "most bytes of copies in it; what was not used for longest goes first (default: half of what "
        "the disk has free without them)", ge=1
    )  # fmt: skip

    @property
    def cache(self) -> Cache:
        """Copies of remote files on this machine."""
        return Cache(self.cache_dir, self.cache_bytes)


SECTIONS = {"cluster": ClusterSettings}
