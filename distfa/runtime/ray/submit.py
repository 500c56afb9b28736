"""Sends a run to a cluster as a Ray job, through its dashboard: submits it, follows it, stops it on an interrupt."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ray

from distfa.errors import ClusterError, Interrupted, UsageError

_LOOK_SECONDS = 1.0
_STOP_SECONDS = 60.0


def submit(
    address: str, command: str, folder: Path, *, say: Callable[[str], None], show: Callable[[str], None]
) -> None:
    """Run a command on the cluster's head, in a copy of a folder.

    Args:
        address: Address of the dashboard, ``http://host:8265``.
        command: The command to run.
        folder: The folder that becomes its working directory.
        say: Called with the state of the job, in words.
        show: Called with what the job prints.

    Raises:
        UsageError: ``ray[default]`` is not installed.
        ClusterError: No dashboard answers, or the job fails.
        Interrupted: Ctrl-C was pressed; the job has been stopped.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
    except (ImportError, ModuleNotFoundError) as exc:
        raise UsageError(f"sending jobs needs more of Ray: pip install 'ray[default]=={ray.__version__}'") from exc
    except (ConnectionError, RuntimeError) as exc:
        if "ray[default]" in str(exc):
            raise UsageError(f"sending jobs needs more of Ray: pip install 'ray[default]=={ray.__version__}'") from exc
        raise ClusterError(
            f"no Ray dashboard answers at {address}: {exc}; is 'ray[default]' installed on its head node?"
        ) from exc
    try:
        job = client.submit_job(entrypoint=command, runtime_env={"working_dir": str(folder)})
    except RuntimeError as exc:
        raise ClusterError(f"the cluster at {address} did not accept the job: {str(exc).splitlines()[0]}") from exc
    say(f"submitted job {job}")
    try:
        state = _follow(client, job, show)
    except KeyboardInterrupt as exc:
        client.stop_job(job)
        give_up = time.monotonic() + _STOP_SECONDS
        while not client.get_job_status(job).is_terminal() and time.monotonic() < give_up:
            time.sleep(_LOOK_SECONDS)
        raise Interrupted(f"interrupted; stopped job {job}") from exc
    if state != "SUCCEEDED":
        raise ClusterError(f"job {job} ended as {state.lower()}; see its output above")


def _follow(client: object, job: str, show: Callable[[str], None]) -> str:
    """Show what the job prints until it ends; returns how it ended."""
    read = 0
    while True:
        status = client.get_job_status(job)  # type: ignore[attr-defined]
        text = client.get_job_logs(job)  # type: ignore[attr-defined]
        show(text[read:])
        read = len(text)
        if status.is_terminal():
            return str(status.value)
        time.sleep(_LOOK_SECONDS)
