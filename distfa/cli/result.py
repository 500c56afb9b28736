"""The result of a run, in the terminal."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from distfa.cli.output import table
from distfa.core.base.metrics import in_words
from distfa.core.rules import BASELINE, RULES
from distfa.run.collapse import Finding
from distfa.run.result import Result, name_boundary, start_line
from distfa.text.lines import say
from distfa.text.words import human_bytes, pluralize


def result_table(result: Result, *, stderr: bool) -> None:
    """Print the figures of a run, the bytes over each boundary, and the run directory."""
    console = Console(stderr=stderr, soft_wrap=not (sys.stderr if stderr else sys.stdout).isatty())
    told = partial(say, console=console)
    accuracy = f"test accuracy {result.test_accuracy:.2%}, " if result.test_accuracy is not None else ""
    how = start_line(result)
    loss = f", test loss {result.test_loss:.4f}" if result.test_loss is not None else ""
    told(
        f" ({how}), {result.model}, engine {result.engine}: {accuracy}train loss {result.train_loss:.4f}{loss}",
        mark=result.rule,
        mark_style="bold",
    )
    for name, figure in result.metrics.items():
        told(in_words(f"test {name}", figure))
    told(
        f"{result.steps:,} steps, {pluralize(result.epochs, 'epoch')}, {result.samples_per_second:,.0f} samples/s, "
        f"{result.wall_seconds:.1f} s of which {result.startup_seconds:.1f} s to start"
    )
    if result.engine != "serial" and result.bytes["boundaries"]:
        console.print(_bytes_table(result))
    if result.ledger.get("entries"):
        told(_ledger_line(result), style="yellow" if result.ledger["violations"] else "")
    if result.alignment is not None:
        told(_alignment_line(result.alignment))
    if result.privacy:
        told(result.privacy["claim"], style="" if result.privacy["private"] else "yellow")
    if result.stopped:
        told(f"stopped early: {result.stopped}")
    if result.renewals:
        told(f"feedback renewed {pluralize(result.renewals, 'time')}; products of weights travelled, but no weights")
    if result.recoveries:
        last = result.recoveries[-1]
        times = pluralize(len(result.recoveries), "time")
        told(
            f"went back to a checkpoint {times}, the last time from step {last['failed_at']:,} to {last['step']:,}: "
            f"{last['cause']}"
        )
    for finding in result.findings:
        told(str(Finding(**finding)), mark=f"{finding['finding']}: ", mark_style="bold yellow")
    told(f"run directory: {result.run_dir}")


def _ledger_line(result: Result) -> str:
    entries, broken = result.ledger["entries"], result.ledger["violations"]
    signals = result.ledger["signals_compared"]
    compared = f", {signals:,} signals compared at both ends" if signals else ""
    rule = RULES.known(result.rule)
    held, broke = "the law held", "the law broke"
    if rule is not None and not rule.has_law:
        held, broke = "the books balance", "the books do not balance"
    if not broken:
        return f"conservation ledger: {entries:,} entries{compared}, {held} in all"
    first = result.ledger["first_violation"]
    return f"conservation ledger: {broke} in {broken:,} of {entries + signals:,} entries, first at {first}"


def _alignment_line(alignment: dict[str, Any]) -> str:
    layers = ", ".join(f"{layer['cosine']:.2f}" for layer in alignment["layers"])
    return (
        f"alignment with the true gradient at step {alignment['step']}: {alignment['cosine']:.3f} (layers {layers}), "
        f"dominance {alignment['dominance']:.2f}, at least {alignment['min_dominance']:.2f}"
    )


def _bytes_table(result: Result) -> Table:
    title = "training bytes between layers: activations up, errors down"
    if any("beside" in row for row in result.bytes["boundaries"]):
        title += "; between replicas, gradients"
    compared = result.rule != BASELINE  # bp would be compared with itself
    inside = ["inside"] if result.bytes["total"].get("inside") else []
    headings = ("layers", *inside, "up", "down", "total", "framing", *(["bp would send"] if compared else []))
    made = table(title, headings, words=("layers",))
    rows = [(name_boundary(row), row) for row in result.bytes["boundaries"]]
    for name, row in [*rows, ("all", result.bytes["total"])]:
        payload = row["up_payload"] + row["down_payload"]
        message = row["up_message"] + row["down_message"]
        if name == "all":
            made.add_section()
        made.add_row(
            name,
            *(human_bytes(row[key]) for key in inside),
            *map(human_bytes, (row["up_payload"], row["down_payload"], payload)),
            f"{(message - payload) / payload:.1%}" if payload else "-",
            *([_compare_with_bp(row, payload)] if compared else []),
        )
    return made


def _compare_with_bp(row: dict[str, Any], payload: int) -> str:
    """The bytes that bp would have sent, and their ratio to what was sent."""
    if not payload or not row["bp_payload"]:  # not known, or counted at the boundaries
        return "-"
    return f"{human_bytes(row['bp_payload'])} ({row['bp_payload'] / payload:.2f}x)"
