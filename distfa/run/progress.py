"""Shows how a run goes: a bar in a terminal or a notebook, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import AuditRecord, Cut, EvalRecord, RenewalRecord, TimelineRecord
from distfa.run.observing import Progress as RunProgress
from distfa.runtime.phases import LOG, Up
from distfa.text.lines import say, stderr
from distfa.text.words import human_bytes

_QUIET = ProbeRecord | TimelineRecord | RenewalRecord | AuditRecord | Cut
_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 10.0  # between lines about a long start
_WARNINGS = 3
_WIDE = 110  # columns that are enough for everything


class Phases(logging.Handler):
    """Shows what a start is waiting for, and how long each part of it took.

    Args:
        say: Called with the part that starts or continues, and how far it is; None when it starts.
    """

    def __init__(self, say: Callable[[str, Up | None], None]) -> None:
        super().__init__()
        self._say, self._parts = say, list[tuple[str, float]]()

    def emit(self, record: logging.LogRecord) -> None:
        """A part begins or continues."""
        up: Up | None = getattr(record, "up", None)
        if up is None:
            self._parts.append((record.getMessage(), time.monotonic()))
        if self._parts:
            self._say(self._parts[-1][0], up)

    def summary(self) -> str:
        """`` (Ray 4.0 s, layer processes 6.1 s)``; empty if no part was reported."""
        marks = [since for _, since in self._parts] + [time.monotonic()]
        parts = [f"{what} {marks[k + 1] - since:.1f} s" for k, (what, since) in enumerate(self._parts)]
        return f" ({', '.join(parts)})" if parts else ""


def _bar(console: Console, *, shown: bool, wide: bool, transient: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20 if wide else 10),
        TextColumn("{task.fields[figures]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
        transient=transient,
    )


@contextmanager
def counting(what: str, *, shown: bool = True, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar over samples with the time left, on stderr while the context lasts; only in a terminal.

    Args:
        what: What is done with the samples.
        shown: False to show nothing.
        console: Where to print; None: stderr.

    Yields:
        A function to call with how many samples are done, and of how many.
    """
    console = console or stderr()
    shown = shown and console.is_terminal
    with _bar(console, shown=shown, wide=console.width >= _WIDE, transient=True) as bar:
        task = bar.add_task(what, total=None, figures="")
        yield lambda done, of: bar.update(task, completed=done, total=of, figures=f"{done:,}/{of:,} samples")


class ProgressBar:
    """A bar with loss, accuracy, time left and, if there is room, samples/s and bytes.

    In a notebook a moving bar needs ipywidgets; without it there are lines, as in a file.

    Args:
        starting: What happens until the first step.
        warns: Whether violations of the law are shown as they come.
        console: Where to print; None: stderr.
    """

    def __init__(self, starting: str, *, warns: bool = True, console: Console | None = None) -> None:
        self._warns = warns
        self._console = console or stderr()
        self._starting, self._began = starting, time.monotonic()
        self._task: TaskID | None = None
        self._shown = 0.0
        self._warned = 0
        self._found = 0
        self._live = self._console.is_terminal or (self._console.is_jupyter and _has_widgets())
        self._wide = self._console.width >= _WIDE
        self._bar = _bar(self._console, shown=self._live, wide=self._wide)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        self._phases = Phases(self._say_phase)
        LOG.addHandler(self._phases)
        LOG.setLevel(logging.INFO)
        if self._live:
            self._task = self._bar.add_task(self._starting, total=None, figures="")
        else:
            self._console.print(self._starting, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOG.removeHandler(self._phases)
        if self._live:
            self._bar.refresh()  # a notebook keeps what was shown last
        self._bar.stop()

    def _say_phase(self, what: str, up: Up | None) -> None:
        """Show the part that a start waits for: how many layers are up, and how long the others may still take."""
        if self._task is not None:
            if up is None:
                self._bar.reset(self._task, total=None, description=f"starting: {what}", figures="")
            else:
                self._bar.update(self._task, total=up.of, completed=up.done, figures=f"{up.done}/{up.of} layers")
        elif up is not None and time.monotonic() - self._shown >= _LINE_SECONDS and up.seconds >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self._say(f"{what}: {up}")

    def __call__(self, progress: RunProgress) -> None:
        """Show where the run is."""
        record = progress.record
        for finding in progress.tally.findings[self._found :]:
            say(str(finding), mark=f"{finding.finding}: ", mark_style="yellow", console=self._console)
        self._found = len(progress.tally.findings)
        if record is None:
            goes_on = f"; resuming from step {progress.tally.steps:,}" if progress.tally.steps else ""
            self._shown = 0.0
            if self._task is not None:
                self._bar.reset(self._task, total=progress.steps, figures="")
            self._say(f"ready after {time.monotonic() - self._began:.1f} s{self._phases.summary()}{goes_on}")
        if isinstance(record, EvalRecord):
            self._say_epoch(record, progress)
        if isinstance(record, LedgerRecord | DigestRecord):
            self._warn(progress.tally.violations)
            return
        if self._task is None or record is None or isinstance(record, _QUIET):
            return
        now = time.monotonic()
        if now - self._shown < _REFRESH_SECONDS and progress.tally.steps < progress.steps:
            return
        self._shown = now
        self._bar.update(
            self._task,
            description=f"epoch {record.epoch + 1}",
            total=progress.steps,
            completed=progress.tally.steps,
            figures=self._figures(progress),
        )

    def _figures(self, progress: RunProgress) -> str:
        """As much as fits into the line, the most important first."""
        tally = progress.tally
        parts = [f"{tally.steps:,}/{progress.steps:,} steps", f"loss {tally.train_loss:.4f}"]
        if tally.train_accuracy is not None:
            parts.append(f"acc {tally.train_accuracy:.1%}")
        if self._wide:
            moved = sum(row["up_payload"] + row["down_payload"] for row in progress.boundaries() if row["up_message"])
            parts += [f"{tally.samples_per_second:,.0f} samples/s", *([human_bytes(moved)] if moved else [])]
        return "  ".join(parts)

    def _say(self, text: str) -> None:
        """Print a line, if there is no bar to show it."""
        if self._task is None:
            say(text, console=self._console)

    def _warn(self, violations: list[str]) -> None:
        """Print the first few violations as they come."""
        while self._warns and self._warned < min(len(violations), _WARNINGS):
            say(violations[self._warned], mark="ledger: ", mark_style="yellow", console=self._console)
            self._warned += 1

    def _say_epoch(self, record: EvalRecord, progress: RunProgress) -> None:
        tally = progress.tally
        accuracy = "" if tally.test_accuracy is None else f", test accuracy {tally.test_accuracy:.2%}"
        self._say(
            f"epoch {record.epoch + 1}: train loss {tally.train_loss:.4f}, test loss {tally.test_loss:.4f}"
            f"{accuracy}, {tally.samples_per_second:,.0f} samples/s"
        )


def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None
