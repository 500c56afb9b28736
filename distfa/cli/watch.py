"""``distfa watch``: the layers of a run in the terminal, as it trains."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distfa.errors import RunDirError
from distfa.text.lines import fold
from distfa.text.words import human_bytes

if TYPE_CHECKING:
    from distfa.report.latest import Entries, Latest
    from distfa.report.records import Described

_REFRESH_SECONDS = 1.0
_COLUMNS = ("layer", "worker", "width", "idle", "cos", "angle", "law", "up", "down")
_OVER = ("finished", "failed", "interrupted", "lost")
_SILENT_SECONDS = 60.0  # a run elsewhere that has written nothing for so long, and whose lock is not seen, is lost
_UNREADABLE_SECONDS = 30.0  # as long may a shared folder refuse to be read


def watch(
    run_dir: Annotated[
        Path, typer.Argument(help="Directory of a run that is about to start, is running or has ended.")
    ],
    once: Annotated[bool, typer.Option("--once", help="Print the current state once and exit.")] = False,
    patience: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for a run that is about to start.")
    ] = 60.0,
) -> None:
    """Show a run's layers as it trains. Per layer: idle time and alignment with the true gradient. Per boundary: the
    angle between weights and feedback, whether the conservation law holds, and bytes per second. Below: who waits
    for whom.

    It only reads the run directory, so it works from any machine that can see it, and goes on through recoveries. It
    ends with the run, or with Ctrl-C.
    """
    from distfa.report.latest import Latest

    if not once:
        _await(run_dir, patience)
    latest = Latest(run_dir)
    over = _is_over(latest.run, silent_seconds=0.0)
    if once or over:
        console = Console()
        console.print(_picture(latest), soft_wrap=not console.is_terminal)
        return
    with Live(_picture(latest), refresh_per_second=4) as live:
        for picture in _pictures(latest):
            live.update(picture)


def _pictures(latest: Latest) -> Iterator[Group]:
    """A picture each second until the run is over; a folder on another machine may be unreadable for a while."""
    changed = read = time.monotonic()
    size, over = -1, False
    while not over:
        time.sleep(_REFRESH_SECONDS)
        try:
            latest.look()
            picture = _picture(latest)
        except RunDirError:
            if time.monotonic() - read > _UNREADABLE_SECONDS:
                raise
            continue
        read = time.monotonic()
        if latest.bytes_read != size:
            size, changed = latest.bytes_read, read
        over = _is_over(latest.run, silent_seconds=read - changed)
        yield picture


def _is_over(run: Described, *, silent_seconds: float) -> bool:
    """Whether nothing more can come. A folder need not show the lock that a process on another machine holds on it."""
    if _may_be_driven_elsewhere(run):
        return silent_seconds > _SILENT_SECONDS
    return run.about.get("status") in _OVER


def _may_be_driven_elsewhere(run: Described) -> bool:
    return run.about.get("status") == "lost" and run.about.get("node") != platform.node()


def _await(run_dir: Path, patience_seconds: float) -> None:
    """Wait for a run that is about to start; if none appears, reading it raises an error that says what is wrong."""
    began = time.monotonic()
    while not (run_dir.expanduser() / "run.json").exists() and time.monotonic() - began < patience_seconds:
        if time.monotonic() - began < _REFRESH_SECONDS:
            typer.echo(f"waiting up to {patience_seconds:.0f} s for a run in {run_dir}", err=True)
        time.sleep(_REFRESH_SECONDS)


def _age(run: Described) -> str:
    """The age of what is shown, while the run is going."""
    try:
        seconds = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
    except OSError:
        return ""
    return f"written {seconds:.0f} s ago"


def _picture(latest: Latest) -> Group:
    """The headline, and the layers with the output on top, in the order in which signals pass them."""
    from distfa.report.records import have_shared_workers
    from distfa.report.resuming import recovery
    from distfa.report.waiting import stall, waits

    sizes = latest.run.sizes
    rows: list[tuple[str | Text, ...]] = []
    last = latest.last("probe")
    probe = {layer["layer"]: layer for layer in last["layers"]} if last else {}
    idle, rates = _rates(latest.traffic())
    layers = latest.layers()
    workers = {row["layer"]: str(row["worker"]) for row in layers} if have_shared_workers(layers) else {}
    for index in range(len(sizes) - 1, 0, -1):
        rows.append(
            (
                f"{index}",
                workers.get(index, ""),
                f"{sizes[index - 1]} to {sizes[index]}",
                f"{idle[index]:.0%}" if index in idle else "",
                f"{probe[index]['cosine']:+.2f}" if index in probe else "",
                *("", "", "", ""),
            )
        )
        if index > 1:
            entries = latest.entries(index - 1)
            up, down = rates.get(index - 1, ("", ""))
            angle = entries[1].get("angle_degrees") if entries else None
            rows.append(("  |", "", "", "", "", "" if angle is None else f"{angle:.1f}°", _law(entries), up, down))
    found = [
        _line(f"{row.get('finding')}: step {row['step']}, {row.get('text')}", "yellow") for row in latest.findings()
    ]
    back = [_line(recovery(entry), "yellow") for entry in latest.run.about.get("recoveries", [])[-3:]]
    going = latest.run.about.get("status") in ("running", "lost")
    now = [_line(said, "yellow" if stall(layers) else "")] if going and (said := waits(layers)) else []
    return Group(_line(_headline(latest), "bold"), *back, *found, _stack(rows), *now)


def _line(text: str, style: str) -> Text:
    console = Console()
    return Text(fold(text, console.width) if console.is_terminal else text, style=style)


def _stack(rows: Sequence[Sequence[str | Text]]) -> Table:
    """The columns that have something to show."""
    shown = [i for i in range(len(_COLUMNS)) if any(len(row[i]) for row in rows)]
    table = Table(*(_COLUMNS[i] for i in shown), box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table


def _headline(latest: Latest) -> str:
    run = latest.run
    said = [f"{run.rule} ({run.init})", str(run.about.get("status"))]
    if _may_be_driven_elsewhere(run):
        said[-1] += f", or driven on {run.about.get('node')}, whose lock is not seen here"
    if (attempt := run.about.get("attempt", 1)) > 1:
        said.append(f"attempt {attempt}")
    if last := latest.last("step"):
        said.append(f"step {last['step']}, epoch {last['epoch'] + 1}, loss {last['loss']:.4f}")
        said.append(f"{last['samples_per_second']:,.0f} samples/s")
    if (scored := latest.last("eval")) and scored.get("accuracy") is not None:
        said.append(f"test accuracy {scored['accuracy']:.2%}")
    if run.about.get("status") == "running" and (age := _age(run)):
        said.append(age)
    if probe := latest.last("probe"):
        said.append(f"alignment {probe['cosine']:.3f}, dominance {probe['dominance']:.2f}")
    return ", ".join(said)


def _law(found: tuple[Entries, Mapping[str, Any]] | None) -> Text:
    """Whether the law has held so far, and how far the last entry was from breaking it."""
    if found is None:
        return Text()
    entries, last = found
    if entries.broken:
        return Text(f"broken {entries.broken:,}/{entries.count:,}", style="red")
    return Text(f"holds ({last['residual']:.0e})", style="green")


def _rates(traffic: Sequence[Mapping[str, Any]]) -> tuple[dict[int, float], dict[int, tuple[str, str]]]:
    """(idle share per layer, (up, down) bytes per second per boundary) between the last two records of traffic."""
    if len(traffic) < 2:
        return {}, {}
    before, now = traffic
    seconds = now["seconds"] - before["seconds"]
    waited = [[row["wait_seconds"] for row in then["layers"]] for then in traffic]
    if seconds <= 0 or any(b < a for a, b in zip(*waited, strict=True)):  # an attempt has just started
        return {}, {}
    idle = {
        b["layer"]: min(1.0, (b["wait_seconds"] - a["wait_seconds"]) / seconds)
        for a, b in zip(before["layers"], now["layers"], strict=True)
    }
    rates = {
        b["boundary"]: tuple(
            f"{arrow} {human_bytes((b[way] - a[way]) / seconds)}/s"
            for arrow, way in (("^", "up_message"), ("v", "down_message"))
        )
        for a, b in zip(
            *([row for row in then["boundaries"] if not {"shared", "beside"} & row.keys()] for then in traffic),
            strict=True,
        )
    }
    return idle, {boundary: (up, down) for boundary, (up, down) in rates.items()}
