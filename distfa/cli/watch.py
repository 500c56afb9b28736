"""``distfa watch``: the layers of a run in the terminal, as it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distfa.experiment.lines import folded
from distfa.words import human_bytes

if TYPE_CHECKING:
    from distfa.experiment.report.records import Run

_REFRESH_SECONDS = 1.0
_COLUMNS = ("layer", "width", "idle", "cos", "angle", "law", "up", "down")
_OVER = ("finished", "failed", "interrupted", "lost")


def watch(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a run that is about to start, under way or ended.")],
    once: Annotated[bool, typer.Option("--once", help="Print the picture once and stop.")] = False,
    patience: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for a run that is about to start.")
    ] = 60.0,
) -> None:
    """Show a run's layers as it trains: per layer, idle time and alignment with the true gradient; per boundary,
    the angle between weights and feedback, whether the conservation law holds, and bytes per second.

    It reads only the run directory, so it can run anywhere that sees it. It ends with the run, or with Ctrl-C.
    """
    from distfa.experiment.report.records import read_run

    if not once:
        _await(run_dir, patience)
    run = read_run(run_dir)
    if once or run.about.get("status") in _OVER:
        console = Console()
        console.print(_picture(run), soft_wrap=not console.is_terminal)
        return
    with Live(_picture(run), refresh_per_second=4) as live:
        while run.about.get("status") not in _OVER:
            time.sleep(_REFRESH_SECONDS)
            run = read_run(run_dir)
            live.update(_picture(run))


def _await(run_dir: Path, patience_seconds: float) -> None:
    """Wait for a run that is about to start; if none comes, the error of reading it says what is wrong."""
    began = time.monotonic()
    while not (run_dir.expanduser() / "run.json").exists() and time.monotonic() - began < patience_seconds:
        if time.monotonic() - began < _REFRESH_SECONDS:
            typer.echo(f"waiting up to {patience_seconds:.0f} s for a run in {run_dir}", err=True)
        time.sleep(_REFRESH_SECONDS)


def _age(run: Run) -> str:
    """The age of what is shown, if the run goes on."""
    try:
        seconds = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
    except OSError:
        return ""
    return f"written {seconds:.0f} s ago"


def _picture(run: Run) -> Group:
    """The headline, and the layers with the output on top, in the order in which signals pass them."""
    sizes = run.sizes
    rows: list[tuple[str | Text, ...]] = []
    probe = {layer["layer"]: layer for layer in run.probes[-1]["layers"]} if run.probes else {}
    idle, rates = _rates(run)
    for index in range(len(sizes) - 1, 0, -1):
        rows.append(
            (
                f"{index}",
                f"{sizes[index - 1]} to {sizes[index]}",
                f"{idle[index]:.0%}" if index in idle else "",
                f"{probe[index]['cosine']:+.2f}" if index in probe else "",
                *("", "", "", ""),
            )
        )
        if index > 1:
            entries = run.boundaries.get(index - 1)
            up, down = rates.get(index - 1, ("", ""))
            angle = entries[-1].get("angle_degrees") if entries else None
            rows.append(("  |", "", "", "", "" if angle is None else f"{angle:.1f}°", _law(entries), up, down))
    found = [_line(f"{row.get('finding')}: step {row['step']}, {row.get('text')}", "yellow") for row in run.findings]
    return Group(_line(_headline(run), "bold"), *found, _stack(rows))


def _line(text: str, style: str) -> Text:
    console = Console()
    return Text(folded(text, console.width) if console.is_terminal else text, style=style)


def _stack(rows: Sequence[Sequence[str | Text]]) -> Table:
    """The columns that have anything to show."""
    shown = [i for i in range(len(_COLUMNS)) if any(len(row[i]) for row in rows)]
    table = Table(*(_COLUMNS[i] for i in shown), box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table


def _headline(run: Run) -> str:
    said = [f"{run.rule} ({run.init})", str(run.about.get("status"))]
    if run.steps:
        last = run.steps[-1]
        said.append(f"step {last['step']}, epoch {last['epoch'] + 1}, loss {last['loss']:.4f}")
        said.append(f"{last['samples_per_second']:,.0f} samples/s")
    if run.evals and run.evals[-1].get("accuracy") is not None:
        said.append(f"test accuracy {run.evals[-1]['accuracy']:.2%}")
    if run.about.get("status") == "running" and (age := _age(run)):
        said.append(age)
    if run.probes:
        said.append(f"alignment {run.probes[-1]['cosine']:.3f}, dominance {run.probes[-1]['dominance']:.2f}")
    return ", ".join(said)


def _law(entries: Sequence[Mapping[str, Any]] | None) -> Text:
    """Whether the law has held so far, and how far the last entry was from breaking it."""
    if not entries:
        return Text()
    broken = sum(not entry["holds"] for entry in entries)
    if broken:
        return Text(f"broken {broken}/{len(entries)}", style="red")
    return Text(f"holds ({entries[-1]['residual']:.0e})", style="green")


def _rates(run: Run) -> tuple[dict[int, float], dict[int, tuple[str, str]]]:
    """(idle share per layer, (up, down) bytes per second per boundary) between the last two records of traffic."""
    if len(run.traffic) < 2:
        return {}, {}
    before, now = run.traffic[-2:]
    seconds = now["seconds"] - before["seconds"]
    if seconds <= 0:  # an attempt has just begun
        return {}, {}
    idle = {
        b["layer"]: min(1.0, max(0.0, b["wait_seconds"] - a["wait_seconds"]) / seconds)
        for a, b in zip(before["layers"], now["layers"], strict=True)
    }
    rates = {
        b["boundary"]: tuple(
            f"{arrow} {human_bytes((b[way] - a[way]) / seconds)}/s"
            for arrow, way in (("^", "up_message"), ("v", "down_message"))
        )
        for a, b in zip(before["boundaries"], now["boundaries"], strict=True)
    }
    return idle, {boundary: (up, down) for boundary, (up, down) in rates.items()}
