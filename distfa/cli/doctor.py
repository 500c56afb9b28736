"""``distfa doctor``: what is installed, what Ray sees, whether two layers can communicate, and what to fix."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distfa.text.lines import say
from distfa.text.words import human_bytes, pluralize

if TYPE_CHECKING:
    from distfa.runtime.ray.inspection import LinkReport, NodeReport

_PACKAGES = ("torch", "ray", "grpcio", "protobuf", "numpy", "pydantic", "safetensors", "tensorboard")
_INDENT = " " * 6
_STORE_BYTES = 128 * 2**20
_BYTES_PER_LAYER = 400e6
_CLOCK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """``good`` is False if training will not work; a warning is good but has a fix."""

    good: bool = True
    text: str
    fix: str = ""

    def show(self) -> None:
        """Print it with a coloured mark, and its fix below."""
        mark, colour = ("fail", "red") if not self.good else ("warn", "yellow") if self.fix else ("ok", "green")
        say(self.text, mark=f"{mark:<6}", mark_style=colour, indent=_INDENT)
        if self.fix:
            say(f"{_INDENT}fix: {self.fix}", indent=_INDENT)


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to check, host:port or auto; if not given, the one that RAY_ADDRESS names, or else "
            "a new one started here."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the two layers communicate in plain text even across machines.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of lines.")] = False,
) -> None:
    """Check this machine and a Ray cluster: resources, versions, GPUs and clock of every node, ports and bandwidth
    between nodes, and a real two-layer run over gRPC.

    Exit code 0 if training will work, 1 if something must be fixed; every problem comes with its fix.
    """
    checks: list[Callable[[], list[_Finding]]] = [
        _software,
        _machine,
        lambda: _cluster(address),
        _nodes,
        lambda: _two_layers(address, insecure),
    ]
    good, found = True, list[_Finding]()
    try:
        for check in checks:
            for finding in _run_check(check):
                good = good and finding.good
                found.append(finding)
                if not as_json:
                    finding.show()
            if not good:
                break
    finally:
        if "ray" in sys.modules:
            from distfa.runtime.ray.cluster import stop_ray

            stop_ray()
    if as_json:
        typer.echo(json.dumps({"training_will_work": good, "findings": [asdict(finding) for finding in found]}))
        raise typer.Exit(0 if good else 1)
    say("training will work" if good else "fix the above, then run 'distfa doctor' again")
    if not good:
        raise typer.Exit(1)


def _run_check(check: Callable[[], list[_Finding]]) -> list[_Finding]:
    from distfa.errors import DistfaError

    try:
        return check()
    except DistfaError as exc:
        problem, _, fix = str(exc).partition("; ")
        return [_Finding(good=False, text=problem, fix=fix or "see above")]


def _software() -> list[_Finding]:
    from distfa.version import __version__

    found = [f"python {platform.python_version()}", f"distfa {__version__}"]
    missing = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    findings = [_Finding(text=", ".join(found))]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        findings.append(_Finding(good=False, text=f"not installed: {', '.join(missing)}", fix=fix))
    return findings


def _machine() -> list[_Finding]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    load = os.getloadavg()[0]
    cpus = os.cpu_count() or 1
    findings = [
        _Finding(
            text=f"{cpus} CPUs (load {load:.1f}), {human_bytes(memory)} of free memory, GPUs: "
            f"{', '.join(gpus) or 'none'}",
        ),
        _Finding(
            good=memory > 2 * _BYTES_PER_LAYER,
            text=f"room for about {memory // _BYTES_PER_LAYER:.0f} layer processes of some "
            f"{human_bytes(_BYTES_PER_LAYER)} each, plus their weights",
            fix="" if memory > 2 * _BYTES_PER_LAYER else "free memory, or attach to a larger cluster with --address",
        ),
    ]
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else 0
    if free < _STORE_BYTES:
        findings.append(
            _Finding(
                text=f"/dev/shm has {human_bytes(free)} free but Ray's object store needs "
                f"{human_bytes(_STORE_BYTES)}, so it will be on disk",
                fix="make it larger (in a container: --shm-size=1g)",
            )
        )
    return findings


def _cluster(address: str | None) -> list[_Finding]:
    from distfa.runtime.ray import cluster

    began = time.monotonic()
    cluster.start_ray(address)
    nodes = cluster.cluster_facts()
    where = cluster.choose_address(address)
    what = "started Ray here" if where == cluster.LOCAL else f"attached to Ray at {where}"
    return [
        _Finding(text=f"{what} in {time.monotonic() - began:.1f} s: {pluralize(len(nodes), 'node')}"),
        *(_Finding(text=f"node {ip}: {resources}") for ip, resources in nodes),
        *_doors(cluster.list_open_addresses()),
    ]


def _doors(addresses: list[str]) -> list[_Finding]:
    """Check who may use the cluster."""
    if not addresses:
        return [_Finding(text="Ray can be reached only from this machine, or with its token")]
    return [
        _Finding(
            text=f"Ray requires no token: anyone who can reach {', '.join(addresses)} can run code there as its user",
            fix="put its ports behind a firewall, or start every node with RAY_AUTH_MODE=token and the same "
            "token ('umask 077 && ray get-auth-token --generate'); see docs/clusters.md",
        )
    ]


def _nodes() -> list[_Finding]:
    """What is on every node, and how they reach each other."""
    from distfa.runtime.ray.inspection import inspect_cluster

    nodes, links = inspect_cluster()
    return [*_each(nodes), *_compare(nodes), *_links(links)]


def _each(nodes: Sequence[NodeReport]) -> list[_Finding]:
    found = []
    for node in nodes:
        versions = ", ".join(f"{key} {value}" for key, value in node.facts.items())
        text = f"node {node.address}: {versions}, GPUs: {', '.join(node.gpus) or 'none'}"
        if node.silent:
            text = f"node {node.address}: {node.silent}"
        fix = "see whether it can start Ray workers ('ray status', its /tmp/ray/session_latest/logs)"
        found.append(_Finding(good=not node.silent, text=text, fix=fix if node.silent else ""))
    return found


def _compare(nodes: Sequence[NodeReport]) -> list[_Finding]:
    """In what the nodes differ: versions stop a run, GPUs and clocks do not."""
    heard = [node for node in nodes if not node.silent]
    found = []
    for key in dict.fromkeys(key for node in heard for key in node.facts):
        if text := _differ(key, {node.address: node.facts.get(key, "none") for node in heard}):
            found.append(_Finding(good=False, text=text, fix="install the same on every node"))
    if text := _differ("GPUs", {node.address: ", ".join(node.gpus) or "none" for node in heard}):
        found.append(_Finding(text=text, fix="choose nodes by ray.resources or ray.layers if layers need GPUs"))
    for node in heard:
        if abs(node.clock_seconds) - node.clock_error_seconds > _CLOCK_SECONDS:
            ahead = "ahead of" if node.clock_seconds > 0 else "behind"
            text = f"the clock of node {node.address} is {abs(node.clock_seconds):.1f} s {ahead} this machine's"
            fix = "set the clocks (chrony, ntp): certificates, timelines and ages depend on them"
            found.append(_Finding(text=text, fix=fix))
    return found or ([_Finding(text="all nodes have the same versions and time")] if len(heard) > 1 else [])


def _differ(what: str, of: Mapping[str, str]) -> str:
    """In words, who has which; empty if all have the same."""
    who: dict[str, list[str]] = {}
    for address, value in of.items():
        who.setdefault(value, []).append(address)
    if len(who) < 2:
        return ""
    return f"nodes differ in {what}: " + "; ".join(f"{value} on {', '.join(them)}" for value, them in who.items())


def _links(links: Sequence[LinkReport]) -> list[_Finding]:
    """Which nodes cannot reach each other, and the slowest link of those that can."""
    found = [
        _Finding(
            good=False,
            text=f"node {link.source} cannot reach a port of node {link.target}: {link.refused}",
            fix="open TCP between the nodes; wire.ports limits layers to a range of ports, for a firewall",
        )
        for link in links
        if link.refused
    ]
    if open_ones := [link for link in links if not link.refused]:
        slow = min(open_ones, key=lambda link: link.bytes_per_second)
        text = (
            f"{pluralize(len(open_ones), 'link')} between nodes: the slowest, {slow.source} to {slow.target}, carries "
            f"{human_bytes(slow.bytes_per_second)}/s and connects in {1e3 * slow.seconds:.1f} ms"
        )
        found.append(_Finding(text=text))
    return found


def _two_layers(address: str | None, insecure: bool) -> list[_Finding]:
    """Make a real two-layer run of two steps, and compare it with the serial engine."""
    import torch

    from distfa import data
    from distfa import settings as specs
    from distfa.intake.subject import network_for
    from distfa.run.run import run

    dataset = data.load("digits", limit=64)
    weights = {}
    with tempfile.TemporaryDirectory() as scratch:
        for engine in ("ray", "serial"):
            spec = specs.parse_spec(
                {
                    "engine": engine,
                    "max_steps": 2,
                    "model": {"hidden": [16]},
                    "device": "cpu",
                    "ray": {"address": address},
                    "wire": {"security": "insecure" if insecure else "auto"},
                    "run_dir": f"{scratch}/{engine}",
                }
            )
            result, weights[engine] = run(spec, network_for(spec, dataset), dataset)
            if engine == "ray":
                talked = result
    same = all(torch.equal(weights["ray"][key], weights["serial"][key]) for key in weights["ray"])
    boundary = talked.bytes["total"]
    return [
        _Finding(
            text=f"two layers communicated over gRPC ({talked.facts['security']}): "
            f"{boundary['up_message'] + boundary['down_message']:,} bytes, started in "
            f"{talked.startup_seconds:.1f} s",
        ),
        _Finding(
            good=same,
            text="their weights equal the serial engine's, bit for bit"
            if same
            else "their weights differ from the serial engine's",
            fix="" if same else "use nodes with the same kind of processor and the same build of torch",
        ),
    ]
