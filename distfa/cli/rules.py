"""``distfa rules``: the table of feedback rules."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distfa.cli import options
from distfa.text.lines import say

_OWN = typer.Argument(metavar="[NAME]...", help="Also your own: package.module:name.")


def rules(own: Annotated[list[str] | None, _OWN] = None, as_json: options.JsonObject = False) -> None:
    """List the feedback rules: what layer l learns from, what it costs on the wire, and the potential.

    delta: error signals; W: weights; B: fixed feedback matrices; e: output error; C: classes; d: widths; r:
    feedback.rank. A rule with a potential obeys a conservation law; a rule without one does not. Rules of
    installed packages (entry points distfa.rules) are listed, too.
    """
    from distfa.core.rules import RULES

    renewable = ", ".join(rule.name for rule in RULES.values() if rule.takes_renewal)
    note = (
        f"With feedback.renew, {renewable} recompute B_l from time to time from the current weights above. "
        "Strictly speaking, that is weight transport: products of weights travel, even if no weight does. It is "
        "off by default."
    )

    columns = ("rule", "teaching signal s_l", "numbers sent down", "potential", "source")
    rows = [
        (name, rule.equation, rule.sends, rule.potential or "none, so no conservation law", rule.source)
        for name, rule in [*RULES.items(), *((name, RULES[name]) for name in [*RULES.installed(), *(own or ())])]
    ]
    if as_json:
        typer.echo(json.dumps({row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows}))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row), end_section=True)
    Console().print(table)
    say(note)
