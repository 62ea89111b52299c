"""Ray jobs: which one this process belongs to, and whether another is over."""

from __future__ import annotations

import json
import os

from cluster.settings import ClusterSettings

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray's job supervisor gives the command that it runs


def this_job() -> str | None:
    """The submission id of the job that this command is run by; None outside one."""
    try:
        found = json.loads(os.environ[CONFIG])["metadata"]["job_submission_id"]
    except (KeyError, ValueError, TypeError):
        return None
    return str(found)


def has_ended(job: str, settings: ClusterSettings) -> bool:
    """Whether the cluster that this command speaks to says that the job is over (False: it cannot say)."""
    from ray.job_submission import JobSubmissionClient

    address = settings.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        return False
    try:
        return bool(JobSubmissionClient(address).get_job_status(job).is_terminal())
    except (RuntimeError, OSError, ValueError):  # what requests raises is an OSError
        return False
