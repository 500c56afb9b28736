"""The cluster that a run is launched on, as the spec describes it: plain data, without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

Port = Annotated[int, Ge(1024), Le(65535)]


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """The resources that ``distfa launch`` asks of a cluster.

    Attributes:
        nodes: Number of Ray nodes, the head included.
        cpus: Processors of each node.
        gpus: GPUs of each node.
        memory_gib: Memory of each node.
        minutes: Longest time that the run may take.
        retries: How often a failed job is restarted, from its last checkpoint.
        wait_seconds: Longest wait for missing nodes.
        python: Version of Python in the image and on the nodes.
        ray: Version of Ray in the image and on the nodes; one that distfa supports (docs/reference/versions.md).
        image: Container image; null: distfa with its version as the tag.
        hosts: For ray-up: addresses of the machines that all of them can reach, the head's first.
        ssh_user: For ray-up: the user that may log in there by ssh.
        port: Port of Ray's head.
        shared_port: For SLURM nodes shared with other jobs: the first of 200 blocks of 100 ports, one block per job.
    """

    nodes: Annotated[int, Ge(1)] = 2
    cpus: Annotated[int, Ge(1)] = 2
    gpus: Annotated[int, Ge(0)] = 0
    memory_gib: Annotated[int, Ge(1)] = 4
    minutes: Annotated[int, Ge(1)] = 60
    retries: Annotated[int, Ge(0)] = 2
    wait_seconds: Annotated[float, Gt(0)] = 300.0
    python: str = "3.11"
    ray: str = "2.60.0"
    image: str | None = None
    hosts: tuple[str, ...] = ()
    ssh_user: str | None = None
    port: Port = 6379
    shared_port: Annotated[int, Ge(1024), Le(45535)] = 30000
