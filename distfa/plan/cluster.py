"""The description of a cluster: nodes, their network, their sites; YAML in, validated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distfa.errors import PlanError
from distfa.runtime.placement import share as even_share

EXAMPLE = """\
nodes:                              # a number, or groups of identical nodes
  - count: 4
    cores: 8                        # shared by the node's layers and their wire threads
    flops_per_second: calibrated    # of one core (or one device, if there are any), or 50e9
    memory_bytes_per_second: calibrated  # of one core, or 10e9
    memory_gib: 32
    nic_bits_per_second: 10e9       # of the network card, each way, shared by all its traffic
network:
  latency_seconds: 50e-6            # between two nodes of a site
  # between_sites: {latency_seconds: 0.05, bits_per_second: 1e9}   # with 'site: NAME' in groups of nodes
# calibration: calibration.json     # from 'distfa plan --calibrate calibration.json'; without it, typical figures
"""

Positive = Annotated[float, Field(gt=0)]
Rate = Literal["calibrated"] | Positive


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NodeGroup(_Part):
    """A group of equal nodes. Cores and links are those of one node."""

    count: int = Field(1, ge=1)
    cores: int = Field(2, ge=1)
    devices: int = Field(0, ge=0)
    flops_per_second: Rate = "calibrated"
    memory_bytes_per_second: Rate = "calibrated"
    memory_gib: Positive = 16.0
    nic_bits_per_second: Positive = 10e9
    site: str = "here"


class BetweenSites(_Part):
    """The connection between sites: each site has one link of this capacity in each direction."""

    latency_seconds: float = Field(0.05, ge=0)
    bits_per_second: Positive = 1e9


class ClusterNetwork(_Part):
    """How nodes reach each other."""

    latency_seconds: float = Field(50e-6, ge=0)
    between_sites: BetweenSites | None = None


def _groups(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return [{"count": value}]
    return [value] if isinstance(value, dict) else value


class Cluster(_Part):
    """Nodes in order, group by group."""

    nodes: Annotated[tuple[NodeGroup, ...], BeforeValidator(_groups), Field(min_length=1)]
    network: ClusterNetwork = ClusterNetwork()
    calibration: str | None = None

    @model_validator(mode="after")
    def _sites_are_linked(self) -> Cluster:
        sites = {group.site for group in self.nodes}
        if len(sites) > 1 and self.network.between_sites is None:
            raise ValueError(
                f"nodes are at {len(sites)} sites ({', '.join(sorted(sites))}) but network.between_sites is missing; "
                "give its latency_seconds and bits_per_second"
            )
        return self

    @cached_property
    def each(self) -> tuple[NodeGroup, ...]:
        """The groups with one entry per node."""
        return tuple(group for group in self.nodes for _ in range(group.count))


def load_cluster(path: Path) -> Cluster:
    """A cluster from a YAML file; the path of a calibration is relative to that file.

    Raises:
        PlanError: The file cannot be read, or breaks a rule.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as exc:
        raise PlanError(f"cannot read the cluster {path}: {exc.strerror}; 'distfa plan --example' prints one") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise PlanError(f"the cluster {path} is not valid YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(raw, dict):
        raise PlanError(f"the cluster {path} holds no keys and values; 'distfa plan --example' prints one")
    cluster = parse_cluster(raw)
    if cluster.calibration is None:
        return cluster
    return cluster.model_copy(update={"calibration": str(path.parent / cluster.calibration)})


def parse_cluster(raw: Mapping[str, Any]) -> Cluster:
    """Validate a description.

    Raises:
        PlanError: It breaks a rule; the message names the first.
    """
    try:
        return Cluster.model_validate(raw)
    except ValidationError as exc:
        problems = exc.errors(include_url=False)
        where = ".".join(str(part) for part in problems[0]["loc"])
        message = problems[0]["msg"].removeprefix("Value error, ")
        if problems[0]["type"] == "extra_forbidden":
            text = f"unknown key {where!r}; 'distfa plan --example' prints every key"
        elif where:
            text = f"{where} is {problems[0]['input']!r}: {message[:1].lower()}{message[1:]}"
        else:
            text = message
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PlanError(f"in the cluster: {text}{more}") from exc


def place(cluster: Cluster, layers: int, placement: str, cpus: float | None) -> tuple[int, ...]:
    """The node of every layer, as Ray would place them.

    ``pack`` fills one node after the other, ``spread`` gives each node one layer in turn.

    Args:
        cluster: The cluster.
        layers: How many.
        placement: As ``ray.placement`` in the run spec.
        cpus: A layer's share of a core; None for the even share a run reserves.

    Raises:
        PlanError: They do not fit.
    """
    nodes = cluster.each
    share = even_share([node.cores for node in nodes], layers) if cpus is None else cpus
    room = [int(node.cores / share + 1e-9) if share else layers for node in nodes]
    if placement == "strict_spread":
        room = [min(slots, 1) for slots in room]
    if placement == "strict_pack":
        room = [slots if slots == max(room) and room.index(slots) == i else 0 for i, slots in enumerate(room)]
    if sum(room) < layers:
        raise PlanError(
            f"{layers} layers do not fit on {len(nodes)} nodes with placement {placement!r}: there is room for "
            f"{sum(room)} at {share:g} cores each; describe more nodes or cores, or lower ray.resources.cpus"
        )
    if placement in ("pack", "strict_pack"):
        return tuple(node for node, slots in enumerate(room) for _ in range(slots))[:layers]
    turns = ((turn, node) for node, slots in enumerate(room) for turn in range(slots))
    return tuple(node for _, node in sorted(turns))[:layers]
