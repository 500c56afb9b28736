"""The command line: one file per command; only this package exits the process.

Exit codes: 0 done, 1 the run failed, 2 the request cannot be carried out, 130 interrupted by Ctrl-C, 143 by SIGTERM,
129 by a closed terminal.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable

import typer

from distfa.cli import (
    bench,
    doctor,
    evaluate,
    experiment,
    export,
    launch,
    metrics,
    plan,
    predict,
    report,
    rules,
    spec,
    status,
    train,
    watch,
)
from distfa.cli.output import error
from distfa.errors import DistfaError
from distfa.text.streams import ignore_write_errors
from distfa.version import __version__

app = typer.Typer(
    name="distfa",
    help="Layer-parallel training without weight transport: each layer of a network is a Ray actor; activations "
    "go up and errors come down over gRPC, through fixed feedback matrices.",
    epilog="To start: distfa train. If something does not work: distfa doctor.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "eval": evaluate.evaluate,
    "predict": predict.predict,
    "export": export.export,
    "doctor": doctor.doctor,
    "spec": spec.spec,
    "rules": rules.rules,
    "watch": watch.watch,
    "status": status.status,
    "report": report.report,
    "metrics": metrics.metrics,
    "plan": plan.plan,
    "experiment": experiment.experiment,
}
_BENCH = {name: bench.make_command(name) for name in bench.BENCHMARKS}


_BY_SIGNAL = 128  # as a shell reports a process ended by a signal


def _paragraphs(command: Callable[..., None]) -> str:
    """Turn a command's docstring into its help: each paragraph becomes one line, which the terminal wraps as needed."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.__doc__ or "").split("\n\n"))


for _to, _commands in ((app, _COMMANDS), (bench.app, _BENCH)):
    for _name, _command in _commands.items():
        _to.command(_name, help=_paragraphs(_command))(_command)
app.add_typer(launch.app, name="launch")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distfa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; every failure ends with one line and an exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log lines would break up the progress bar
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        """SIGTERM and a closed terminal end a run as Ctrl-C does."""
        ended.append(number)
        raise KeyboardInterrupt

    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup
            signal.signal(ending, end)
    with ignore_write_errors() as out:
        try:
            code = _run_command()
            if ended and code:
                code = _BY_SIGNAL + ended[0]
        finally:
            out.flush()
        if out.lost is not None and not code:
            if not isinstance(out.lost, BrokenPipeError):  # a reader that closes the pipe, like head, has seen enough
                error(f"cannot write to stdout: {getattr(out.lost, 'strerror', None) or out.lost}")
            code = 1
    sys.exit(code)


def _run_command() -> int:
    """Run the command; returns its exit code."""
    try:
        app()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except DistfaError as exc:
        error(str(exc))
        return exc.exit_code
    except Exception as exc:
        if os.environ.get("DISTFA_DEBUG"):
            raise
        error(
            f"unexpected {type(exc).__name__}: {exc}; run it again with DISTFA_DEBUG=1 for the traceback, and report it"
        )
        return 1
    return 0
