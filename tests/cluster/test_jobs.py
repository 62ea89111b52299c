"""Ray's own word on its jobs."""

from __future__ import annotations

import sys
import time

from cluster.jobs import has_ended, this_job
from cluster.settings import ClusterSettings

WAIT_SECONDS = 120.0
JOB = (
    "import sys, time; from cluster.jobs import this_job; "
    "print('I am', this_job(), flush=True); time.sleep(float(sys.argv[1]))"
)


def test_a_job_knows_itself_and_is_known_to_be_over(ray_here: None) -> None:
    """Submitted as `ray job submit` does: it finds its id; it has ended when Ray says so, and not before."""
    import ray
    from ray.job_submission import JobSubmissionClient

    address = ray.get_runtime_context().gcs_address
    cluster = ClusterSettings(address=address)
    client = JobSubmissionClient(address)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            job = client.submit_job(entrypoint=f'{sys.executable} -c "{JOB}" 600')
            break
        except RuntimeError as error:  # Ray's agent for jobs comes a moment after Ray
            assert "No available agent" in str(error) and time.monotonic() < deadline, error
            time.sleep(0.5)
    while f"I am {job}" not in client.get_job_logs(job):
        assert time.monotonic() < deadline, client.get_job_info(job)
        time.sleep(0.2)
    assert not has_ended(job, cluster)
    client.stop_job(job)
    while not has_ended(job, cluster):
        assert time.monotonic() < deadline, client.get_job_info(job)
        time.sleep(0.2)


def test_what_cannot_be_known_has_not_ended(ray_here: None) -> None:
    import ray

    there = ClusterSettings(address=ray.get_runtime_context().gcs_address)
    assert not has_ended("raysubmit_nobody", there)
    assert not has_ended("raysubmit_nobody", ClusterSettings())
    assert this_job() is None
