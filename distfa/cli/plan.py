"""``distfa plan``: predict what a run would cost on a cluster you describe."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from distfa.bench.options import option, option_class
from distfa.cli import options
from distfa.cli.flags import parameter, parameters, with_parameters
from distfa.cli.output import table
from distfa.text.lines import say
from distfa.text.words import human_bytes, pluralize

if TYPE_CHECKING:
    from distfa.plan.build import Setting
    from distfa.plan.predict import Forecast
    from distfa.plan.setup import Planned

_what, _cluster, _else = (partial(option, panel=panel) for panel in ("Run", "Cluster", "Instead of a plan"))
_SHOWN = 8
_WIDTH = 110  # without a terminal


@option_class
class PlanOptions:
    """The flags of the command."""

    cluster_path: Path | None = _cluster(
        None, "YAML description; --example prints one.", name="--cluster", metavar="FILE"
    )
    changes: list[str] | None = _what(
        None, "Any key of the spec, e.g. --set rule=fa.", name="--set", metavar="KEY=VALUE"
    )
    sizes: str | None = _what(
        None, "Number of features and classes, such as 784,10, so that no data set is read.", metavar="IN,OUT"
    )
    layers: str | None = _what(
        None,
        "Plan for this many layers, repeating the last hidden width; several counts give one line each.",
        metavar="N,N,...",
    )
    peer: bool = _cluster(False, "Also compare with torch's 1F1B and GPipe pipelines.", name="--peer")
    as_json: bool = option(False, "Print one JSON object on stdout.", name="--json")
    example: bool = _else(False, "Print an example cluster description.", name="--example")
    calibrate: Path | None = _else(
        None,
        "Measure this machine for the run: first the parts, then a short run; takes about a minute.",
        metavar="FILE",
        outcome=True,
    )
    check: int = _else(
        0,
        "Also run it here on Ray, for this many steps on random samples, and compare it with the plan.",
        metavar="STEPS",
        min=0,
    )


def _plan(spec_path: Path | None, **typed: Any) -> None:
    """Predict step time, bytes, memory and the bottleneck of a run on a described cluster.

    It simulates the real schedule, event by event, until the step time is steady; docs/plan.md says what is modelled.
    """
    from distfa.plan import cluster as clusters

    asked = PlanOptions(**typed)
    if asked.example:
        typer.echo(clusters.EXAMPLE, nl=False)
        return
    from distfa import settings as specs
    from distfa.errors import PlanError
    from distfa.plan import setup

    spec = specs.load_spec(spec_path, [specs.parse_change(change) for change in asked.changes or []])
    planned = setup.Planned(spec, options.numbers("--sizes", asked.sizes, 2) if asked.sizes else None)
    depths: list[int | None] = [*options.numbers("--layers", asked.layers)] if asked.layers else [None]
    if asked.calibrate is not None:
        _calibrate(asked.calibrate, planned, depths[0])
        return
    if asked.cluster_path is None:
        raise PlanError("no cluster is described; give --cluster FILE ('distfa plan --example' prints an example)")
    settings = [setup.setting(planned, clusters.load_cluster(asked.cluster_path), depth) for depth in depths]
    if len(settings) > 1:
        _print_scale(settings, peer=asked.peer, as_json=asked.as_json)
    else:
        _print_plan(planned, settings[0], peer=asked.peer, as_json=asked.as_json)
    if asked.check:
        _print_check(planned, settings[0], asked.check)


_SPEC = typer.Argument(metavar="[SPEC]", help="YAML run spec, as 'distfa train' takes it.")
plan = with_parameters(_plan, [parameter("spec_path", Path | None, None, _SPEC), *parameters(PlanOptions)])


def _calibrate(path: Path, planned: Planned, layers: int | None) -> None:
    """Measure this machine and write a file."""
    from distfa.measuring.machine import describe_machine
    from distfa.plan import calibrate

    found = calibrate.calibrate(planned, layers, describe_machine(), say=_tell)
    found.save(path)
    say(
        f"{path}: a run takes {found.run_factor:.2f} times the processor time of its parts; a message waits "
        f"{_seconds(found.wake_seconds)} for a core when all are busy"
    )


def _print_plan(planned: Planned, setting: Setting, *, peer: bool, as_json: bool) -> None:
    from distfa.plan.bottleneck import placement_notes
    from distfa.plan.predict import comparison, forecast

    found = forecast(setting, advise=True)
    others = comparison(setting, found, with_peer=peer)
    if as_json:
        typer.echo(json.dumps({"plan": asdict(found), "comparison": [asdict(o) for o in others]}, allow_nan=False))
        return
    widths = setting.job.recipe.network.sizes
    shown = "-".join(map(str, widths if len(widths) <= _SHOWN else [*widths[:2], "...", *widths[-2:]]))
    say(
        f"{found.name}: {shown}, {pluralize(len(widths) - 1, 'layer')} on {pluralize(len(found.nodes), 'node')}, batch "
        f"{setting.job.recipe.batch_size} in {pluralize(len(setting.rows), 'micro-batch', 'micro-batches')}"
    )
    say(f"step {_seconds(found.step_seconds)}, {found.samples_per_second:,.0f} samples/s")
    say(f"bottleneck: {found.bottleneck}")
    if not found.steady.settled:
        say("note: the step time did not settle; the figures are means over the later simulated steps")
    if setting.cluster.calibration is None:
        say(
            "note: the figures are for typical server cores; 'distfa plan SPEC --calibrate FILE' measures this "
            "machine, and 'calibration: FILE' in the cluster description uses it"
        )
    elsewhere = placement_notes(planned, setting, found.step_seconds, lambda other: forecast(other).step_seconds)
    for note in (*elsewhere, *_memory_notes(setting, found)):
        say(note)
    console = _console()
    console.print(_nodes(found), _layers(found), _memory(found), _comparison_table(others))


def _print_scale(settings: list[Setting], *, peer: bool, as_json: bool) -> None:
    from distfa.plan.predict import comparison, forecast

    rows = [(len(s.job.recipe.network), comparison(s, forecast(s), with_peer=peer)) for s in settings]
    if as_json:
        typer.echo(json.dumps([{"layers": n, "comparison": [asdict(p) for p in found]} for n, found in rows]))
        return
    made = table("step time by depth", ("layers", *(one.name for one in rows[0][1])), words=("layers",))
    for count, found in rows:
        made.add_row(f"{count:,}", *(_seconds(prediction.step_seconds) for prediction in found))
    _console().print(made)


def _print_check(planned: Planned, setting: Setting, steps: int) -> None:
    """Make the same run on this machine and compare."""
    from distfa.plan import short_run
    from distfa.plan.predict import forecast

    steady = forecast(setting).steady
    network, expected = setting.job.recipe.network, steady.step_seconds
    _tell(f"checking: {steps:,} steps on Ray, about {steps * expected:.0f} s plus the time to start and warm up")
    found = short_run.run_briefly(planned.spec, planned, network, steps=steps, expected_seconds=expected)
    say(
        f"check: a step of {_seconds(steady.step_seconds)} is predicted, {_seconds(found.step_seconds)} is the mean of "
        f"{steps} measured, ratio {steady.step_seconds / found.step_seconds:.2f}"
    )
    if found.core_seconds:
        say(
            f"processor time of a step: {_seconds(steady.core_seconds)} predicted, {_seconds(found.core_seconds)} "
            f"measured, ratio {steady.core_seconds / found.core_seconds:.2f}"
        )


def _memory_notes(setting: Setting, found: Forecast) -> list[str]:
    notes = []
    for node in found.nodes:
        room = setting.cluster.each[node["node"]].memory_gib * 2**30
        if node["memory"] > room:
            notes.append(f"note: node {node['node']} needs {human_bytes(node['memory'])} and has {human_bytes(room)}")
    return notes[:_SHOWN]


def _nodes(found: Forecast) -> Table:
    title = "nodes: bytes per step through the network card; memory of its layers"
    made = table(title, ("node", "layers", "in", "out", "memory"))
    for node in _ends(found.nodes):
        sizes = (human_bytes(node[key]) for key in ("in", "out", "memory"))
        made.add_row(str(node["node"]), str(node["layers"]), *sizes)
    return made


def _layers(found: Forecast) -> Table:
    title = "layers: payload per step across the boundary above; share of time"
    numbers = {layer: str(worker) for worker, layers in enumerate(found.workers, start=1) for layer in layers}
    hosts = ["worker"] if len(found.workers) < len(numbers) else []
    made = table(title, ("layer", *hosts, "up", "down", "compute", "wire"))
    for i in _ends(list(range(len(found.memory)))):
        above = (
            [human_bytes(found.boundaries[i][way]) for way in ("up", "down")] if i < len(found.boundaries) else ["", ""]
        )
        shares = (f"{found.steady.compute[i]:.0%}", f"{found.steady.wire[i]:.0%}")
        made.add_row(str(i + 1), *(numbers[i + 1] for _ in hosts), *above, *shares)
    return made


def _memory(found: Forecast) -> Table:
    title = "memory of the layers: weights and their state; signals kept; messages; total"
    made = table(title, ("layer", "weights+", "kept", "window", "all"))
    for i, memory in _ends(list(enumerate(found.memory))):
        held = memory.weights + memory.gradients + memory.optimizer + memory.feedback + memory.ledger
        made.add_row(str(i + 1), *map(human_bytes, (held, memory.kept, memory.window, memory.total)))
    return made


def _comparison_table(others: list[Forecast]) -> Table:
    headings = ("", "step", "samples/s", "payload", "bottleneck")
    made = table("comparison", headings, words=("", "bottleneck"), wraps=("bottleneck",))
    for other in others:
        moved = sum(row["up"] + row["down"] for row in other.boundaries)
        figures = (_seconds(other.step_seconds), f"{other.samples_per_second:,.0f}", human_bytes(moved))
        made.add_row(other.name, *figures, other.bottleneck)
    return made


def _ends(rows: Any) -> list[Any]:
    """The first and the last few, if there are many."""
    return [*rows] if len(rows) <= _SHOWN else [*rows[: _SHOWN // 2], *rows[-_SHOWN // 2 :]]


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1e3:,.2f} ms"


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, width=None if Console().is_terminal else _WIDTH)
