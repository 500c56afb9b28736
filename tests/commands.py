"""The command line: as a process of its own, or, where the process is not what is tested, without one."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from unittest.mock import patch

from distfa.cli import main

TINY = ["--epochs", "2", "--hidden", "24,16", "--set", "data.limit=200"]


def command(*args) -> list[str]:
    """What a shell would start."""
    return [sys.executable, "-m", "distfa", *map(str, args)]


def distfa(*args, cwd, check=True, env=None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m distfa`` to its end; ``env`` is added to this process's."""
    done = subprocess.run(
        command(*args),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return _checked(done, check)


def here(*args, cwd, check=True) -> subprocess.CompletedProcess[str]:
    """The same in this process: ``main`` with these arguments in that directory, without three seconds of imports.

    A Ray session that this process has is used as it is.
    """
    argv, out, err, code = ["distfa", *map(str, args)], io.StringIO(), io.StringIO(), 0
    handlers = {ending: signal.getsignal(ending) for ending in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with (
            patch.object(sys, "argv", argv),
            patch.dict(os.environ),
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    finally:
        for ending, handler in handlers.items():
            signal.signal(ending, handler)
    return _checked(subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue()), check)


def _checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    if check:
        assert done.returncode == 0, done.stderr
    return done
