"""Runs functions in separate processes at the same time; each ends with one JSON object on stdout.

python -m distfa.measuring.subprocesses MODULE FUNCTION ARGUMENTS
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from distfa.errors import BenchError

_POLL_SECONDS = 0.05


def command(function: Callable[..., Mapping[str, Any]], **arguments: object) -> list[str]:
    """The command line that prints what a function of a module returns; arguments and answer must fit in JSON."""
    module = [sys.executable, "-m", "distfa.measuring.subprocesses", function.__module__, function.__qualname__]
    return [*module, json.dumps(arguments)]


def launch(
    name: str,
    commands: Sequence[Sequence[str]],
    *,
    environment: Mapping[str, str] = os.environ,
    deadline_seconds: float,
) -> list[dict[str, Any]]:
    """Run commands at the same time; returns what each reported, in order.

    Args:
        name: Their name in errors.
        commands: One command per process.
        environment: Environment for all of them.
        deadline_seconds: Longest time for all of them together; then the rest are killed.

    Raises:
        BenchError: A process failed, reported nothing, or did not end in time.
    """
    with ExitStack() as stack:
        running: list[subprocess.Popen[bytes]] = []
        streams: list[tuple[IO[bytes], IO[bytes]]] = []
        stack.callback(_end, running)
        for line in commands:
            out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            streams.append((out, err))
            try:
                running.append(
                    subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(environment))
                )
            except OSError as exc:
                raise BenchError(f"cannot start {name}: {line[0]!r}: {exc.strerror}") from exc
        _wait(name, running, streams, deadline_seconds)
        return [_report(name, out, err) for out, err in streams]


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Let a second Ctrl-C wait until everything is removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(
    name: str,
    running: Sequence[subprocess.Popen[bytes]],
    streams: Sequence[tuple[IO[bytes], IO[bytes]]],
    deadline_seconds: float,
) -> None:
    give_up = time.monotonic() + deadline_seconds
    while True:
        codes = [process.poll() for process in running]
        for rank, code in enumerate(codes):
            if code:
                raise BenchError(f"{name}: process {rank} ended with code {code}: {_last_line(streams[rank][1])}")
        if None not in codes:
            return
        if time.monotonic() > give_up:
            late = ", ".join(str(rank) for rank, code in enumerate(codes) if code is None)
            raise BenchError(
                f"{name} did not end within {deadline_seconds:.0f} s (process {late}); use fewer steps or a "
                "longer deadline"
            )
        time.sleep(_POLL_SECONDS)


def _report(name: str, out: IO[bytes], err: IO[bytes]) -> dict[str, Any]:
    try:
        return dict(json.loads(_last_line(out)))
    except ValueError as exc:
        raise BenchError(f"{name} reported nothing readable; its last output was {_last_line(err)!r}") from exc


def _last_line(stream: IO[bytes]) -> str:
    stream.seek(0)
    lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def _main() -> None:
    module, function, arguments = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments))))


if __name__ == "__main__":
    _main()
