"""A run's log for machines: one JSON object a line, with time, level, run, attempt, layer and step.

It holds what the process that drives a run logs at WARNING and above, which is still printed as before, and what is
logged only for this file (``LOG``): attempts, checkpoints, and the error of every layer.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from distfa.text import strict_json
from distfa.text.redact import redact

LOG = logging.getLogger("distfa.run_log")
LOG.propagate = False
LOG.setLevel(logging.INFO)
LOG.addHandler(logging.NullHandler())

_PLACE = ("run", "attempt", "layer", "step")
_ALL = logging.getLogger("distfa")


class RunLog(logging.Handler):
    """Appends to a run's log what belongs to the run: by the run's id, or by the thread if a record has no id.

    Args:
        path: The file.
        run: The run's id.
    """

    def __init__(self, path: Path, run: str) -> None:
        super().__init__(logging.INFO)
        self._path, self._run, self._thread = path, run, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if it is the run's."""
        said = {name: getattr(record, name) for name in _PLACE if hasattr(record, name)}
        if said.setdefault("run", self._run if record.thread == self._thread else None) != self._run:
            return
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname.lower(), **said, "message": redact(record.getMessage())}
        with (  # a full disk must not end the run
            contextlib.suppress(OSError),
            self._path.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(strict_json.dumps(line) + "\n")
        if record.name != LOG.name and not _others_listen() and logging.lastResort is not None:
            with contextlib.suppress(OSError, ValueError):
                logging.lastResort.handle(record)  # to stderr, as without this handler


def _others_listen() -> bool:
    """Whether other handlers take distfa's records."""
    handlers = (*_ALL.handlers, *logging.getLogger().handlers)
    return any(not isinstance(handler, RunLog) for handler in handlers)


@contextlib.contextmanager
def write_run_log(path: Path, run: str) -> Iterator[None]:
    """To be open during a run: keeps the run's log in a file.

    Args:
        path: The file; it is made with the first line.
        run: The run's id.
    """
    handler = RunLog(path, run)
    for logger in (_ALL, LOG):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in (_ALL, LOG):
            logger.removeHandler(handler)
