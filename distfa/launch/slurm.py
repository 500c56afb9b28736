"""Submits a SLURM job, follows its output, and cancels it when this process is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from distfa.errors import ClusterError, Interrupted
from distfa.launch import tools
from distfa.measuring.subprocesses import delay_interrupts

_LOOK_SECONDS = 2.0
_WORD_SECONDS = 10.0
# reasons that do not go away
_NEVER = ("PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "BadConstraints")
_SLURM = "run this on a machine from which jobs can be submitted (sbatch, squeue and scancel are part of SLURM)"


def submit_command(folder: Path, *, shared: bool) -> list[str]:
    """The command that submits the job, to whole nodes or to nodes that are shared with others."""
    file = "distfa-shared.sbatch" if shared else "distfa.sbatch"
    return ["sbatch", "--parsable", str(folder / "slurm" / file), str(folder / "spec.yaml")]


def submit_and_follow(
    folder: Path, *, shared: bool, wait_seconds: float, say: Callable[[str], None], show: Callable[[str], None]
) -> None:
    """Submit the job and follow it to its end.

    Args:
        folder: The folder of the rendered files; every node sees it.
        shared: Whether its nodes are shared with other jobs.
        wait_seconds: Longest wait for SLURM to start it.
        say: Called with the state of the job, in words.
        show: Called with what the job prints.

    Raises:
        ClusterError: SLURM cannot start the job, or does not start it in time, or the job fails.
    """
    tools.require_tool("sbatch", _SLURM)
    job = tools.ask(submit_command(folder, shared=shared)).strip().partition(";")[0]
    say(f"submitted job {job}")
    ended = False
    try:
        _follow(job, wait_seconds=wait_seconds, say=say, show=show)
        ended = True
    except KeyboardInterrupt as exc:
        raise Interrupted(f"interrupted; cancelled job {job}") from exc
    finally:
        if not ended:
            with delay_interrupts():
                tools.ask(["scancel", "--quiet", job])


def _follow(job: str, *, wait_seconds: float, say: Callable[[str], None], show: Callable[[str], None]) -> None:
    output, read = Path(f"distfa-{job}.out"), 0
    began, word, told = time.monotonic(), 0.0, ""
    while True:
        facts = _facts(job)
        state = facts.get("JobState", "UNKNOWN")
        waited = time.monotonic() - began
        if state == "PENDING":
            reason = facts.get("Reason", "none given")
            why = f"SLURM has not started job {job} (reason: {reason})"
            if reason in _NEVER or waited > wait_seconds:
                late = "and never will" if reason in _NEVER else f"within {wait_seconds:.0f} s"
                raise ClusterError(
                    f"{why} {late}, so it was cancelled; it asks for {facts.get('NumNodes', '?')} nodes with "
                    f"{facts.get('NumCPUs', '?')} processors in total: ask for less (launch.nodes, launch.cpus, "
                    "launch.minutes), or wait longer (launch.wait_seconds)"
                )
            if waited >= word:
                say(f"{why}, {waited:.0f} of at most {wait_seconds:.0f} s")
                word = waited + _WORD_SECONDS
        elif state != told:
            told = state
            say(f"job {job}: {state.lower()} on {facts.get('NodeList', 'no node')}")
        if output.exists():
            text = output.read_bytes()[read:]
            read += len(text)
            show(text.decode(errors="replace"))
        if state == "COMPLETED":
            return
        if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"):
            raise ClusterError(
                f"job {job} ended as {state.lower()}, exit code {facts.get('ExitCode', '?')}; its output is in "
                f"{output.absolute()}; submit it again to resume from its last checkpoint"
            )
        time.sleep(_LOOK_SECONDS)


def _facts(job: str) -> dict[str, str]:
    """SLURM's facts about a job."""
    words = tools.ask(["scontrol", "--oneliner", "show", "job", job]).split()
    return {key: value for key, equals, value in (word.partition("=") for word in words) if equals}
