"""Small plans: free cores, chosen speeds, so that step times have closed forms."""

from __future__ import annotations

from dataclasses import replace

from runs import grouped

from distfa.core.base.activations import Activation
from distfa.core.base.model import plain_network
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe
from distfa.plan import cluster as clusters
from distfa.plan.build import Setting
from distfa.plan.calibration import Calibration, CodecCost, MessageCost
from distfa.runtime.job import Job

FREE = MessageCost(seconds=0.0, seconds_per_byte=0.0)
FLOPS = 1e9


def bare(**changes) -> Calibration:
    """Only products cost anything: FLOPS a second."""
    free = {
        "flops_per_second": FLOPS,
        "memory_bytes_per_second": 1e30,
        "update_bytes_per_second": 1e30,
        "call_seconds": 0.0,
        "update_seconds": 0.0,
        "draw_seconds": 0.0,
        "send": FREE,
        "receive": FREE,
        "carry": FREE,
        "wake_seconds": 0.0,
        "codecs": {"fp32": CodecCost(encode=0.0, decode=0.0)},
        "process_bytes": 0,
    }
    return Calibration(**{**free, **changes})


def setting(
    sizes=(32, 32, 32),
    *,
    latency=0.0,
    nic=1e15,
    cores=64,
    nodes=None,
    calibration=None,
    **recipe,
) -> Setting:
    """A plan with one layer on each node."""
    network = plain_network(sizes, activation=Activation(name=recipe.pop("activation", "relu")))
    layers = len(network)
    job = Job(
        run_id="plan",
        recipe=replace(
            Recipe(network=network, batch_size=32, optimizer=OptimizerConfig(name="sgd")),
            **{"rule": "bp", **grouped(recipe)},
        ),
        train_rows=32,
    )
    cluster = clusters.parse_cluster(
        {
            "nodes": {"count": nodes or layers, "cores": cores, "nic_bits_per_second": nic},
            "network": {"latency_seconds": latency},
        }
    )
    places = tuple(layer * (nodes or layers) // layers for layer in range(layers))
    return Setting(job=job, cluster=cluster, nodes=places, calibration=calibration or bare())


def product(rows, inner, columns):
    """Seconds of one product."""
    return 2 * rows * inner * columns / FLOPS
