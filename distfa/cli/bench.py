"""``distfa bench``: benchmarks; each prints a table and writes its figures as JSON."""

from __future__ import annotations

import importlib
import io
import itertools
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distfa.bench import options
from distfa.bench.outcome import Outcome
from distfa.cli.flags import parameter, parameters, read_options, with_parameters
from distfa.cli.options import outcome_file
from distfa.lab.links.options import CommOptions
from distfa.text import lines
from distfa.text.words import cell

app = typer.Typer(
    help="Benchmark speed against torch's own engines, bytes and time over shaped links, scaling, and the rules. "
    "All figures of a comparison are measured in the same run; tables go to stdout, all measurements to a "
    "JSON file that 'distfa report' plots.",
    no_args_is_help=True,
)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as a command.

    Attributes:
        options: What can be set.
        module: The module whose ``measure(options, say)`` returns an outcome, or yields (file, outcome) of several.
        several: Whether it gives several outcomes, and so --out is a folder.
        out: Help text of --out.
        as_json: Help text of --json.
        panel: The heading under which the help shows these two.
    """

    options: type[options.Options]
    module: str
    several: bool = False
    out: str = "File for the figures."
    as_json: str = "Print the text of the file on stdout instead of a table."
    panel: str | None = None


_TIMED: dict[str, Any] = {
    "out": "Where to write all measurements.",
    "as_json": "Print the JSON instead of a table.",
    "panel": "How it is measured",
}
_FILES: dict[str, Any] = {
    "out": "Directory for the JSON files.",
    "as_json": "Print the text of the files on stdout instead of tables.",
    "several": True,
}
BENCHMARKS = {
    "speed": Benchmark(options=options.SpeedOptions, module="distfa.bench.speed", **_TIMED),
    "comm": Benchmark(options=CommOptions, module="distfa.lab.links.comm"),
    "scale": Benchmark(options=options.ScaleOptions, module="distfa.bench.scale", **_TIMED),
    "rules": Benchmark(options=options.RulesOptions, module="distfa.bench.rules"),
    "books": Benchmark(options=options.BooksOptions, module="distfa.bench.books", **_FILES),
    "codecs": Benchmark(options=options.CodecsOptions, module="distfa.bench.codecs"),
    "checkpoints": Benchmark(options=options.CheckpointsOptions, module="distfa.bench.in_turn"),
    "tls": Benchmark(options=options.TlsOptions, module="distfa.bench.in_turn"),
    "faults": Benchmark(options=options.FaultsOptions, module="distfa.bench.faults"),
}


def make_command(name: str) -> Callable[..., None]:
    """The command of a benchmark: its flags are the options, its help is their docstring."""
    benchmark = BENCHMARKS[name]

    def carry_out(out: Path, as_json: bool, **typed: Any) -> None:
        measure = importlib.import_module(benchmark.module).measure
        asked = read_options(benchmark.options, typed)
        with redirect_stdout(io.StringIO()):  # Ray's own lines: stdout is for the result
            found = measure(asked, lambda line: typer.echo(f"{name}: {line}", err=True))
        for file, outcome in found if benchmark.several else [("", found)]:
            show(outcome, out / file, as_json=as_json)

    where = outcome_file(folder=benchmark.several, help=benchmark.out, rich_help_panel=benchmark.panel)
    text = typer.Option("--json", help=benchmark.as_json, rich_help_panel=benchmark.panel)
    carry_out.__doc__ = benchmark.options.__doc__
    written = [
        parameter("out", Path, Path("." if benchmark.several else f"bench-{name}.json"), where),
        parameter("as_json", bool, False, text),
    ]
    return with_parameters(carry_out, [*parameters(benchmark.options), *written])


def show(outcome: Outcome, out: Path, *, as_json: bool) -> None:
    """Print an outcome, as a table or (with ``as_json``) as the text of its file, and then save it.

    It is printed first, so that a full disk cannot lose it.
    """
    from distfa.run.disk import host

    outcome = replace(outcome, settings={"command": shlex.join(host.command_line()), **outcome.settings})
    if as_json:
        typer.echo(outcome.text(), nl=False)
        outcome.save(out)
        return
    console = Console()
    widths = {key: _column_width(outcome, key) for key in outcome.shown}
    if not console.is_terminal:
        console.width = max(console.width, _table_width(widths))
    for number, keys in enumerate(_pieces(outcome, widths, console.width)):
        table = Table(title=None if number else f"distfa bench {outcome.name}", title_justify="left")
        for key in keys:
            justify: Literal["left", "right"] = "left" if _is_text(outcome, key) else "right"
            table.add_column(escape(outcome.shown[key]), justify=justify, width=widths[key])
        for row in outcome.rows:
            table.add_row(*(escape(cell(row.get(key))) for key in keys))
        console.width = max(console.width, _table_width({key: widths[key] for key in keys}))
        console.print(table)
    for note in outcome.notes:
        mark, _, rest = note.partition(": ")
        ended = mark == "conclusion"
        lines.say(rest if ended else note, mark=f"{mark}: " if ended else "note: ", mark_style="bold", console=console)
    outcome.save(out)
    lines.say(f"written to {out}; 'distfa report {out}' plots it", console=console)


def _pieces(outcome: Outcome, widths: dict[str, int], room: int) -> list[list[str]]:
    """The columns in groups that fit the terminal, one table each; each table starts with the text columns."""
    keys = list(widths)
    lead = list(itertools.takewhile(lambda key: _is_text(outcome, key), keys)) or keys[:1]
    pieces = [list(lead)]
    for key in keys[len(lead) :]:
        if len(pieces[-1]) > len(lead) and _table_width({k: widths[k] for k in [*pieces[-1], key]}) > room:
            pieces.append(list(lead))
        pieces[-1].append(key)
    return pieces


def _table_width(widths: dict[str, int]) -> int:
    """The width that a table needs, including its borders."""
    return 1 + sum(width + 3 for width in widths.values())


def _column_width(outcome: Outcome, key: str) -> int:
    """The width of a column: headings can wrap, figures cannot."""
    cells = [cell(row.get(key)) for row in outcome.rows]
    return max(map(len, (*cells, *outcome.shown[key].split())))


def _is_text(outcome: Outcome, key: str) -> bool:
    return all(isinstance(row.get(key), str) for row in outcome.rows)
