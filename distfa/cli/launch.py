"""``distfa launch``: start a run on a cluster, with the cluster's own tools."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from distfa.cli import options
from distfa.errors import UsageError
from distfa.text.words import hint

if TYPE_CHECKING:
    from distfa.settings import RunSpec


class _RunByDefault(TyperGroup):
    """``distfa launch SPEC`` is short for ``distfa launch run SPEC``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Run a spec on a cluster ('distfa launch SPEC --on TARGET'), or only render the cluster's files. The "
    "cluster is described under launch in the spec; docs/deploy.md describes each target.",
)

SpecPath = Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="YAML run spec, as 'distfa train' takes it.")]
On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="TARGET",
        help="HOST:PORT or auto: a running Ray cluster; http://HOST:8265: a Ray job there; slurm, kuberay, docker, "
        "ray-up; local: this machine.",
    ),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the spec; may be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written and run, and do nothing.")]


@app.command("run")
def run(spec_path: SpecPath = None, on: On = "local", changes: Changes = None, dry_run: DryRun = False) -> None:
    """Start the run (the default), wait for the nodes, show progress; leave nothing behind, even after Ctrl-C.

    If the run directory holds a run that ended early, that run continues from its last checkpoint.
    """
    from distfa import settings as specs
    from distfa.launch import render, targets

    spec = specs.load_spec(spec_path, [specs.parse_change(change) for change in changes or []])
    if on in render.FILES:
        _launch_by_tools(spec, on, dry_run=dry_run)
    elif on.startswith(("http://", "https://")):
        _submit_job(spec, on, dry_run=dry_run)
    elif on == "local" or on == "auto" or ":" in on:
        _run_attached(spec, on, dry_run=dry_run)
    else:
        known = ", ".join(targets.NAMES)
        raise UsageError(
            f"--on {on!r} is not a target; it takes {known}, HOST:PORT or auto, or http://HOST:8265"
            f"{hint(on, (*targets.NAMES, 'auto'))}"
        )


@app.command("render")
def render_files(
    out: Annotated[
        Path, options.outcome_file("-o", "--out", folder=True, metavar="DIR", help="Directory for the files.")
    ],
    spec_path: SpecPath = None,
    on: Annotated[str, typer.Option("--on", metavar="TARGET", help="docker, kuberay, slurm, ray-up or all.")] = "all",
    changes: Changes = None,
) -> None:
    """Write the files that a target needs, all from one spec."""
    from distfa import settings as specs
    from distfa.launch import render

    spec = specs.load_spec(spec_path, [specs.parse_change(change) for change in changes or []])
    for path in render.write_files(render.render_target(spec, on, out), out):
        typer.echo(path)


def _launch_by_tools(spec: RunSpec, target: str, *, dry_run: bool) -> None:
    from distfa.launch import render, slurm, targets

    folder = Path(render.fix_run_dir(spec).run_dir or "").parent / "launch"
    files = render.render_target(spec, target, folder)
    if dry_run:
        for path in files:
            typer.echo(f"write {folder / path}")
        for command in _commands(target, folder, spec):
            typer.echo(f"run   {command}")
        return
    if target == "ray-up":
        targets.require_machines(spec.launch)
        _say(f"machines: {targets.name_machines(spec.launch)}")
    render.write_files(files, folder)
    if target == "slurm":
        shared = spec.launch.slurm.shared
        slurm.submit_and_follow(folder, shared=shared, wait_seconds=spec.launch.wait_seconds, say=_say, show=_show)
    else:
        targets.carry_out(targets.list_commands(target, folder, spec.launch), _say)


def _commands(target: str, folder: Path, spec: RunSpec) -> list[str]:
    from distfa.launch import slurm, targets

    if target == "slurm":
        return [shlex.join(slurm.submit_command(folder, shared=spec.launch.slurm.shared))]
    found = targets.list_commands(target, folder, spec.launch)
    return [shlex.join(command) for command in (*found.start, found.follow, *found.stop)]


def _submit_job(spec: RunSpec, address: str, *, dry_run: bool) -> None:
    from distfa.launch import render

    render.require_no_password(spec)
    spec = render.put_run_dir_home(render.fix_run_dir(spec))
    command = f"distfa launch {render.SPEC} --on auto"
    if dry_run:
        typer.echo(f"run   ray job submit --address {address} --working-dir FOLDER_WITH_SPEC -- {command}")
        return
    from distfa.runtime.ray.submit import submit

    with tempfile.TemporaryDirectory() as folder:
        render.write_files({render.SPEC: render.as_yaml(spec)}, Path(folder))
        submit(address, command, Path(folder), say=_say, show=_show)


def _run_attached(spec: RunSpec, address: str, *, dry_run: bool) -> None:
    from distfa import settings as specs
    from distfa.cli.train import train_spec
    from distfa.launch import render
    from distfa.launch.resume import find_changes
    from distfa.run.disk import run_dir as run_dirs

    spec = render.fix_run_dir(spec)
    folder = run_dirs.expand_path(spec.run_dir or "")
    resume = folder if (folder / run_dirs.RUN).exists() else None
    changes = [] if resume is None else find_changes(resume, spec)
    if dry_run:
        nodes = "" if address == "local" else f"wait for {spec.launch.nodes} nodes, then "
        how = f"resume {resume}" if resume else "start the run"
        typer.echo(f"run   {nodes}{how} on {address}")
        return
    if address != "local":
        from distfa.runtime.ray.await_nodes import await_nodes

        await_nodes(address, spec.launch.nodes, limit_seconds=spec.launch.wait_seconds, say=_say)
    if resume is not None:
        _say(f"{resume} holds a run that ended early; resuming it")
        train_spec(None, [("ray.address", address), *map(specs.parse_change, changes)], resume=resume)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = render.write_files({render.SPEC: render.as_yaml(spec)}, Path(scratch))[0]
        train_spec(path, [("ray.address", address)])


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _show(text: str) -> None:
    typer.echo(text, err=True, nl=False)
