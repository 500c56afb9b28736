"""The cluster that a run is launched on, as the spec describes it: plain data, without Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Port = Annotated[int, Ge(1024), Le(65535)]


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """For ``kuberay``: what its pods need beside processors and memory.

    Attributes:
        namespace: Where everything is made; None: that of kubectl's context.
        storage_class: Storage class of the volume with the runs, one that all nodes can write; None: the cluster's own.
        claims: More volumes of all pods, such as those with data: a path, and the PersistentVolumeClaim mounted there.
        working_dir: Your own code: the URL of a .zip that every pod unpacks and imports from (a Ray runtime
            environment); None: what is in the image.
        pull_secrets: Secrets for the image's registry.
        node_selector: Labels that nodes must have.
        tolerations: Taints of nodes that the pods tolerate, as Kubernetes writes them.
    """

    namespace: str | None = None
    storage_class: str | None = None
    claims: dict[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    pull_secrets: tuple[str, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str | int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """For ``slurm``: what its jobs ask for beside processors and memory.

    Attributes:
        partition: Partition; None: the cluster's own.
        account: Account that is charged; None: your own.
        constraint: Features that nodes must have, such as ``haswell|broadwell``.
        modules: Environment modules that are loaded in the job, such as ``python/3.11``.
        shared: Whether nodes are shared with other jobs, your own too; if not, a job has whole nodes.
    """

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    modules: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """For ``ray-up`` on machines that a cloud starts.

    Attributes:
        provider: ``aws`` or ``gcp``; None: the machines in ``launch.hosts``.
        machine: Type of every machine, such as ``m5.large``, with at least ``launch.cpus`` processors.
        region: Where they are started.
        zone: gcp only: the zone within the region.
        project: gcp only: the project that pays.
    """

    provider: Literal["aws", "gcp"] | None = None
    machine: str | None = None
    region: str | None = None
    zone: str | None = None
    project: str | None = None


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """The resources that ``distfa launch`` asks of a cluster.

    Attributes:
        nodes: Number of Ray nodes, the head included.
        cpus: Processors of each node.
        gpus: GPUs of each node.
        memory_gib: Memory of each node.
        minutes: Longest time that the run may take; None: no limit but the cluster's own.
        retries: How often a failed job is restarted, from its last checkpoint.
        wait_seconds: Longest wait for missing nodes.
        python: Version of Python in the image and on the nodes.
        ray: Version of Ray in the image and on the nodes; one that distfa supports (docs/reference/versions.md).
        image: Container image; null: distfa with its version as the tag.
        hosts: For ray-up: addresses of the machines that all of them can reach, the head's first.
        ssh_user: For ray-up: the user that may log in there by ssh.
        port: Port of Ray's head.
        shared_port: For SLURM nodes shared with other jobs: the first of 200 blocks of 100 ports. A job takes the first
            block that is free on its nodes, from one on that its number says. Keep them below the ports that the system
            gives to connections (/proc/sys/net/ipv4/ip_local_port_range, from 32768 by default).
        kubernetes: For kuberay.
        slurm: For slurm.
        cloud: For ray-up on a cloud.
    """

    nodes: Annotated[int, Ge(1)] = 2
    cpus: Annotated[int, Ge(1)] = 2
    gpus: Annotated[int, Ge(0)] = 0
    memory_gib: Annotated[int, Ge(1)] = 4
    minutes: Annotated[int, Ge(1)] | None = None
    retries: Annotated[int, Ge(0)] = 2
    wait_seconds: Annotated[float, Gt(0)] = 300.0
    python: str = "3.11"
    ray: str = "2.60.0"
    image: str | None = None
    hosts: tuple[str, ...] = ()
    ssh_user: str | None = None
    port: Port = 6379
    shared_port: Annotated[int, Ge(1024), Le(45535)] = 12000
    kubernetes: KubernetesConfig = KubernetesConfig()
    slurm: SlurmConfig = SlurmConfig()
    cloud: CloudConfig = CloudConfig()
