"""What the commands print: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from distfa.core.digest import DigestRecord
from distfa.core.ledger import LedgerRecord
from distfa.core.probe import ProbeRecord
from distfa.core.records import AuditRecord, Cut, EvalRecord, RenewalRecord, TimelineRecord
from distfa.experiment.collapse import Finding
from distfa.experiment.result import Result
from distfa.experiment.run import Progress as RunProgress

_QUIET = ProbeRecord | TimelineRecord | RenewalRecord | AuditRecord | Cut
_REFRESH_SECONDS = 0.1
_WARNINGS = 3


def error(message: str) -> None:
    """One line (or a few) on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]error:[/]", _plain(message))


def human_bytes(count: float) -> str:
    """1536 as ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


class ProgressBar:
    """A bar with loss, accuracy, samples/s and bytes, on stderr; plain lines where stderr is no terminal."""

    def __init__(self, starting: str, *, warns: bool = True) -> None:
        self._warns = warns
        self._console = Console(stderr=True)
        self._starting = starting
        self._task: TaskID | None = None
        self._shown = 0.0
        self._warned = 0
        self._found = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        if self._console.is_terminal:
            self._task = self._bar.add_task(self._starting, total=1, figures="")
        else:
            self._console.print(self._starting, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: RunProgress) -> None:
        """Show where the run is."""
        record = progress.record
        for finding in progress.tally.findings[self._found :]:
            self._console.print(
                f"[yellow]{finding.finding}:[/] {_plain(str(finding))}", soft_wrap=True, highlight=False
            )
        self._found = len(progress.tally.findings)
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
        moved = sum(row["up_payload"] + row["down_payload"] for row in progress.boundaries())
        tally = progress.tally
        figures = f"loss {tally.train_loss:.4f}"
        if tally.train_accuracy is not None:
            figures += f"  acc {tally.train_accuracy:.2%}"
        figures += f"  {tally.samples_per_second:,.0f} samples/s  {human_bytes(moved)}"
        self._bar.update(
            self._task,
            description=f"epoch {record.epoch + 1}",
            total=progress.steps,
            completed=tally.steps,
            figures=figures,
        )

    def _warn(self, violations: list[str]) -> None:
        """Say the first few violations as they come."""
        while self._warns and self._warned < min(len(violations), _WARNINGS):
            self._console.print(f"[yellow]ledger:[/] {_plain(violations[self._warned])}", soft_wrap=True)
            self._warned += 1

    def _say_epoch(self, record: EvalRecord, progress: RunProgress) -> None:
        """A line per evaluation where there is no bar to show it."""
        tally = progress.tally
        if self._task is not None:
            return
        accuracy = "" if tally.test_accuracy is None else f", test accuracy {tally.test_accuracy:.2%}"
        self._console.print(
            f"epoch {record.epoch + 1}: train loss {tally.train_loss:.4f}, test loss {tally.test_loss:.4f}"
            f"{accuracy}, {tally.samples_per_second:,.0f} samples/s",
            highlight=False,
            soft_wrap=True,
        )


def result_table(result: Result, *, stderr: bool) -> None:
    """The figures of a run, the bytes over each boundary, and the run directory."""
    console = Console(stderr=stderr, soft_wrap=not (sys.stderr if stderr else sys.stdout).isatty())
    accuracy = f"test accuracy {_percent(result.test_accuracy)}, " if result.test_accuracy is not None else ""
    how = result.init if result.schedule == "sync" else f"{result.init}, {result.schedule}"
    loss = f", test loss {result.test_loss:.4f}" if result.test_loss is not None else ""
    console.print(
        f"[bold]{result.rule}[/] ({how}), {result.model}, engine {result.engine}: "
        f"{accuracy}train loss {result.train_loss:.4f}{loss}",
        highlight=False,
    )
    epochs = f"{result.epochs} epoch{'' if result.epochs == 1 else 's'}"
    console.print(
        f"{result.steps:,} steps, {epochs}, {result.samples_per_second:,.0f} samples/s, "
        f"{result.wall_seconds:.1f} s of which {result.startup_seconds:.1f} s to start",
        highlight=False,
    )
    if result.engine != "serial" and result.bytes["boundaries"]:
        console.print(_bytes_table(result))
    if result.ledger.get("entries"):
        console.print(_ledger_line(result), highlight=False)
    if result.alignment is not None:
        console.print(_alignment_line(result.alignment), highlight=False)
    if result.renewals:
        times = f"{result.renewals} time{'' if result.renewals == 1 else 's'}"
        console.print(f"feedback renewed {times}; products of weights travelled, no weight did", highlight=False)
    if result.recoveries:
        last = result.recoveries[-1]
        times = f"{len(result.recoveries)} time{'' if len(result.recoveries) == 1 else 's'}"
        console.print(
            f"went back to a checkpoint {times}, the last time from step {last['failed_at']:,} to {last['step']:,}: "
            f"{_plain(last['cause'])}",
            highlight=False,
        )
    for finding in result.findings:
        console.print(f"[bold yellow]{finding['finding']}:[/] {_plain(str(Finding(**finding)))}", highlight=False)
    console.print(f"run directory: {result.run_dir}", highlight=False)


def _ledger_line(result: Result) -> str:
    entries, broken = result.ledger["entries"], result.ledger["violations"]
    signals = result.ledger["signals_compared"]
    compared = f", {signals:,} signals compared at both ends" if signals else ""
    if not broken:
        return f"conservation ledger: {entries:,} entries{compared}, the law held in all"
    first = result.ledger["first_violation"]
    return (
        f"[yellow]conservation ledger: the law broke in {broken:,} of {entries + signals:,} entries, first at "
        f"{_plain(first)}[/]"
    )


def _alignment_line(alignment: dict[str, Any]) -> str:
    layers = ", ".join(f"{layer['cosine']:.2f}" for layer in alignment["layers"])
    return (
        f"alignment with the true gradient at step {alignment['step']}: {alignment['cosine']:.3f} (layers {layers}), "
        f"dominance {alignment['dominance']:.2f}, at least {alignment['min_dominance']:.2f}"
    )


def _bytes_table(result: Result) -> Table:
    title = "training bytes between layers: activations up, errors down"
    made = table(title, ("layers", "up", "down", "total", "framing", "bp would send"), words=("layers",))
    rows = [(f"{row['boundary']}-{row['boundary'] + 1}", row) for row in result.bytes["boundaries"]]
    for name, row in [*rows, ("all", result.bytes["total"])]:
        payload = row["up_payload"] + row["down_payload"]
        message = row["up_message"] + row["down_message"]
        if name == "all":
            made.add_section()
        made.add_row(
            name,
            *map(human_bytes, (row["up_payload"], row["down_payload"], payload)),
            f"{(message - payload) / payload:.1%}" if payload else "-",
            f"{human_bytes(row['bp_payload'])} ({row['bp_payload'] / payload:.2f}x)" if payload else "-",
        )
    return made


def table(title: str, headings: Iterable[str], *, words: Container[str] = (), wraps: Container[str] = ()) -> Table:
    """An empty table: columns of words to the left, of figures to the right."""
    made = Table(title=title, title_justify="left", title_style="italic")
    for heading in headings:
        made.add_column(heading, justify="left" if heading in words else "right", no_wrap=heading not in wraps)
    return made


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _plain(message: str) -> str:
    return message.replace("[", r"\[")
