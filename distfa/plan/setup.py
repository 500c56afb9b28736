"""From a run spec and a cluster to what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distfa.bench.task import read
from distfa.codecs.choice import AUTO
from distfa.core.activations import Activation
from distfa.core.model import mlp
from distfa.errors import PlanError
from distfa.experiment.spec import RunSpec
from distfa.plan.build import Setting
from distfa.plan.calibration import Calibration
from distfa.plan.cluster import Cluster, place
from distfa.runtime.job import Job


def ends(spec: RunSpec, sizes: Sequence[int] | None) -> tuple[int, int]:
    """(features, outputs): as given, or as the data set has them."""
    if sizes is not None:
        return sizes[0], sizes[1]
    found = read(spec)
    return found.features, found.outputs


def job(spec: RunSpec, ends: tuple[int, int], layers: int | None) -> Job:
    """The run.

    Args:
        spec: Of the run.
        ends: (features, outputs).
        layers: How many, by repeating the last hidden width or leaving some out; None for as many as the spec has.

    Raises:
        PlanError: The codec is not named, or there is no hidden width to repeat.
    """
    if AUTO in (spec.codec.activations, spec.codec.errors):
        raise PlanError("codec is 'auto', which is chosen when a run starts; name the codec that is to be planned for")
    hidden = spec.model.hidden
    if layers is not None and layers - 1 != len(hidden):
        if not hidden:
            raise PlanError(f"{layers} layers are asked for, but model.hidden is empty: there is no width to repeat")
        hidden = (*hidden, *[hidden[-1]] * layers)[: layers - 1]
    slope = {"slope": spec.model.slope} if spec.model.activation == "leaky_relu" else {}
    network = mlp(
        (ends[0], *hidden, ends[1]), activation=Activation(name=spec.model.activation, **slope), bias=spec.model.bias
    )
    return spec.job(network, run_id="plan", train_rows=spec.batch_size, test_rows=0)


def setting(spec: RunSpec, ends: tuple[int, int], cluster: Cluster, layers: int | None, fanout: int | None) -> Setting:
    """What is predicted.

    Raises:
        PlanError: The layers do not fit, or the calibration cannot be read.
    """
    planned = job(spec, ends, layers)
    calibration = Calibration() if cluster.calibration is None else Calibration.load(Path(cluster.calibration))
    if cluster.calibration is not None and calibration.dtype != spec.dtype:
        raise PlanError(
            f"the calibration {cluster.calibration} is of {calibration.dtype} products, and the run's are "
            f"{spec.dtype}; calibrate with the run's own spec: 'distfa plan SPEC --calibrate FILE'"
        )
    nodes = place(cluster, len(planned.recipe.network), spec.ray.placement, spec.ray.resources.cpus)
    return Setting(job=planned, cluster=cluster, nodes=nodes, calibration=calibration, fanout=fanout)


def fanout(text: str) -> int | None:
    """``direct``, ``relay`` or ``tree:K`` as ``Setting.fanout``.

    Raises:
        PlanError: It is none of them.
    """
    if text in ("direct", "relay"):
        return None if text == "direct" else 1
    kind, _, width = text.partition(":")
    if kind != "tree" or not width.isdigit() or int(width) < 1:
        raise PlanError(f"--broadcast is {text!r}; it takes direct, relay, or tree:K with K of 1 or more, as tree:8")
    return int(width)
