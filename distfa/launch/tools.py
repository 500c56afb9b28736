"""Runs commands of other tools, follows them, and ends them with this process."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from distfa.errors import ClusterError, UsageError
from distfa.measuring.subprocesses import delay_interrupts

_STOP_SECONDS = 30.0
Command = Sequence[str]


def require_tool(tool: str, source: str) -> None:
    """Make sure that a tool is installed.

    Raises:
        UsageError: It is not on the path.
    """
    if shutil.which(tool) is None:
        raise UsageError(f"{tool!r} is not on this machine's PATH; {source}")


def ask(command: Command, environment: Mapping[str, str] | None = None, *, seconds: float = 120.0) -> str:
    """Run a command and return what it prints.

    Raises:
        ClusterError: It fails, or gives no answer in time.
    """
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(f"'{shlex.join(command)}' gave no answer within {seconds:.0f} s; try it by hand") from exc
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ClusterError(f"'{shlex.join(command)}' failed: {said}")
    return done.stdout


def follow(command: Command, environment: Mapping[str, str] | None = None) -> int:
    """Run a command with its output on stderr; returns its exit code. An interrupt ends the command, too."""
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), env=environment, start_new_session=True
    )
    try:
        return process.wait()
    except BaseException:
        with delay_interrupts():
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise
