"""``distfa status``: which process drives a run, where its layers are, what they are doing, and where it can resume."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distfa.cli import options
from distfa.text.lines import say

if TYPE_CHECKING:
    from distfa.report.latest import Latest


def status(run_dir: options.RunDir, as_json: options.JsonObject = False) -> None:
    """Show which process drives a run, its last sign of life and its last checkpoint, and for each layer its node,
    process, step, waiting signals, whom it is waiting for, and its last error.

    It only reads the run directory, so it works from any machine that can see it. A run whose driver ended without
    recording it has the status 'lost'; the last line says how to resume it.
    """
    from distfa.report.latest import Latest
    from distfa.report.resuming import recovery
    from distfa.report.waiting import stall
    from distfa.text import strict_json

    found = _facts(Latest(run_dir))
    if as_json:
        typer.echo(strict_json.dumps(found))
        return
    say(_headline(found), style="bold")
    for entry in found["recoveries"][-3:]:
        say(recovery(entry), style="yellow")
    if found["error"]:
        say(f"error: {found['error']}", style="red")
    if found["layers"]:
        Console().print(_table(found["layers"]))
    if found["status"] == "running" and (said := stall(found["layers"])):
        say(said, style="yellow")
    for row in found["layers"]:
        if last := row["last_error"]:
            said = f"layer {row['layer']}, last error, in attempt {last['attempt']}: {last['error']}"
            say(said, style="red")
    say(_advice(found))


def _facts(latest: Latest) -> dict[str, Any]:
    from distfa.report.resuming import last_checkpoint, resume_command

    run, about = latest.run, latest.run.about
    last = latest.last("step") or latest.last("traffic")
    return {
        "status": about.get("status"),
        "pid": about.get("pid"),
        "node": about.get("node"),
        "attempt": about.get("attempt", 1),
        "step": last["step"] if last else None,
        "sign_of_life_seconds": round(max(0.0, time.time() - _last_written(run.path)), 1),
        "checkpoint": last_checkpoint(run),
        "go_on": resume_command(run),
        "recoveries": about.get("recoveries", []),
        "error": about.get("error"),
        "layers": latest.layers(),
    }


def _last_written(path: Path) -> float:
    from distfa.run.disk.run_dir import METRICS, RUN

    return max((path / name).stat().st_mtime for name in (METRICS, RUN) if (path / name).exists())


def _headline(found: dict[str, Any]) -> str:
    said = [f"{found['status']}, attempt {found['attempt']}"]
    if found["step"] is not None:
        said.append(f"step {found['step']:,}")
    said.append(f"driven by pid {found['pid']} on {found['node']}")
    said.append(f"last sign of life {found['sign_of_life_seconds']:,.0f} s ago")
    return ", ".join(said)


def _table(layers: list[dict[str, Any]]) -> Table:
    from distfa.report.records import have_shared_workers

    last = ["waits for"] if any(row.get("waiting_for") for row in layers) else []  # no column without information
    hosts = ["worker"] if have_shared_workers(layers) else []
    columns = ("layer", *hosts, "node", "pid", "step", "queue", "busy s", "waited s", *last)
    table = Table(*columns, box=None, pad_edge=False)
    for row in layers:
        table.add_row(
            *(str(row.get(key, "-")) for key in ("layer", *hosts, "node", "pid", "step", "queue")),
            f"{row['busy_seconds']:.1f}",
            f"{row['wait_seconds']:.1f}",
            *(Text(row.get("waiting_for") or "-") for _ in last),
        )
    return table


def _advice(found: dict[str, Any]) -> str:
    from distfa.report.resuming import ENDED_EARLY

    none = "no checkpoint yet" if found["status"] == "running" else "no checkpoint"
    kept = none if found["checkpoint"] is None else f"last checkpoint: step {found['checkpoint']:,}"
    if found["status"] in ENDED_EARLY:
        return f"{kept}; to resume: {found['go_on']}"
    return kept
