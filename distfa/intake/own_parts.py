"""Finds what is a user's own in a spec and tries it, so that what is wrong with it shows before anything starts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distfa.codecs import CODECS, LOSSLESS
from distfa.codecs.choice import AUTO
from distfa.codecs.own_codec import OwnCodec
from distfa.core import rules
from distfa.core.base import order
from distfa.core.base.losses import LOSSES
from distfa.core.base.metrics import FOR_LABELS, FOR_QUANTITIES, Meters
from distfa.core.base.model import Network
from distfa.core.base.optim import SCHEDULE_SHAPES, rate
from distfa.core.base.own_loss import OwnLoss
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Targets
from distfa.core.base.scored import Scored
from distfa.data import Dataset
from distfa.errors import SpecError
from distfa.own.parts import short
from distfa.settings import RunSpec, parse_spec

_LOSS_ROWS, _LOSS_PARTS = 24, 5
_SCHEDULE_STEPS = 200
_TAKEN = ("loss", "accuracy")  # figures of every test set, whose columns a metric would overwrite


def check_own_parts(spec: RunSpec, network: Network, dataset: Dataset) -> None:
    """Refuse parts of a user's own that cannot be found, or do not fit the other settings or the network.

    Raises:
        SpecError: Says what it must be.
        ModelError: To import one raised an error.
    """
    loss = LOSSES[spec.loss]
    rules.RULES[spec.rule]  # finds it
    parse_spec(spec.model_dump())  # now that they are there, which keys go with them is known
    if spec.rule not in rules.RULES:
        _try_rule(f"rule {spec.rule!r}", rules.build_rule(spec.recipe(network)), network)
    for name in dict.fromkeys((spec.codec.activations, spec.codec.errors)):
        if name not in (LOSSLESS, AUTO) and isinstance(codec := CODECS[name], OwnCodec):
            _try_codec(f"codec {name!r}", codec, spec.recipe(network).signal_dtype)
    if spec.optimizer.schedule not in SCHEDULE_SHAPES:
        batches = None if dataset.order is None else dataset.order.batches
        _try_schedule(spec.recipe(network, batches=batches), dataset.epoch_rows)
    if spec.metrics:
        _try_metrics(spec.metrics, network, dataset)
    if isinstance(loss, OwnLoss):
        _try_loss(f"loss {spec.loss!r}", loss, spec.recipe(network), dataset)


def _try_loss(what: str, loss: OwnLoss, recipe: Recipe, dataset: Dataset) -> None:
    """Compare its value and its gradient on a few samples with those of its parts."""
    target = Targets(dataset.train_y, dtype=recipe.dtype).read(_few_rows(dataset))
    shape = (len(target), *recipe.network.shapes[-1])
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=recipe.dtype)
    try:
        once, again, parts = _called(loss, drawn, target)
    except Exception as exc:
        try:
            once, again, parts = _called(loss, torch.sigmoid(drawn), target)  # it may need probabilities
        except Exception:
            said = " ".join(str(exc).split())
            raise SpecError(
                f"{what} fails on outputs of shape {shape} and targets of shape {tuple(target.shape)}, "
                f"{str(target.dtype).removeprefix('torch.')}: {type(exc).__name__}: {said}"
            ) from exc
    if not torch.equal(once.gradient, again.gradient):
        raise SpecError(f"{what} gives another gradient when it is called again; it must not draw or count")
    added, gradient = sum(part.loss for part in parts), torch.cat([part.gradient for part in parts])
    if not (
        math.isclose(added, once.loss, rel_tol=1e-4, abs_tol=1e-6)
        and torch.allclose(gradient, once.gradient, rtol=1e-4, atol=1e-6)
    ):
        raise SpecError(
            f"{what} is neither the mean nor the sum over the samples: on {len(target)} samples it is {once.loss:.6g}, "
            f"but its parts on {_LOSS_PARTS} micro-batches add up to {added:.6g}; write it as a mean over samples"
        )


def _few_rows(dataset: Dataset) -> NDArray[np.int64]:
    """Training rows that cost little to read, from all over the data, whose labels may be sorted."""
    if dataset.order is not None:
        return np.arange(min(_LOSS_ROWS, dataset.order.rows))
    rows = dataset.shards[0] if dataset.shards else len(dataset.train_y)
    return np.linspace(0, rows - 1, min(_LOSS_ROWS, rows)).astype(np.int64)


def _called(loss: OwnLoss, output: Tensor, target: Tensor) -> tuple[Scored, Scored, list[Scored]]:
    """What a loss gives for samples, for the same again, and for their parts.

    Raises:
        Exception: Whatever the loss raises; or it is not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # torch's, where it would broadcast
        whole = loss.weight(target) or 1.0
        once, again = loss(output, target, whole), loss(output, target, whole)
        parts = [
            loss(output[at], target[at], whole) for at in np.array_split(range(len(target)), _LOSS_PARTS) if len(at)
        ]
    if not (math.isfinite(once.loss) and bool(torch.isfinite(once.gradient).all())):
        raise ValueError(f"the loss is {once.loss}, or its gradient is not finite")
    return once, again, parts


def _try_codec(what: str, codec: OwnCodec, dtype: torch.dtype) -> None:
    """Encode and decode a few signals twice."""
    for rows, columns in ((8, 13), (1, 1)):
        signal = torch.randn((rows, columns), generator=torch.Generator().manual_seed(0)).to(dtype)
        try:
            payload, again = codec.encode(signal), codec.encode(signal)
            decoded = codec.decode(payload, rows, columns, dtype)
        except Exception as exc:
            raise SpecError(
                f"{what} fails on a signal of shape ({rows}, {columns}): {type(exc).__name__}: {exc}"
            ) from exc
        if not np.array_equal(payload, again):
            raise SpecError(
                f"{what} makes other bytes of the same signal a second time; it must not draw, count or keep"
            )
        if codec.lossless(dtype) and not torch.equal(decoded, signal):
            raise SpecError(f"{what} says that it is lossless for {dtype}, but it gives back other numbers")


def _try_schedule(recipe: Recipe, rows: int) -> None:
    """Ask it for steps from all over the run."""
    steps = order.count_steps(recipe, rows)
    for step in np.linspace(0, steps - 1, min(steps, _SCHEDULE_STEPS)).astype(int).tolist():
        rate(recipe.optimizer, step, steps)


def _try_metrics(names: Sequence[str], network: Network, dataset: Dataset) -> None:
    """Let each see a few samples."""
    wrong, fit = (FOR_QUANTITIES, FOR_LABELS) if dataset.classification else (FOR_LABELS, FOR_QUANTITIES)
    y = dataset.test_y if len(dataset.test_y) else dataset.train_y
    target = Targets(y, dtype=torch.float32).read(np.arange(min(_LOSS_ROWS, len(y))))
    drawn = torch.randn((len(target), *network.shapes[-1]), generator=torch.Generator().manual_seed(0))
    for name in names:
        if short(name) in _TAKEN:
            raise SpecError(f"metric {name!r} would hide the run's own test {short(name)}; give it another name")
        if name in wrong:
            kind = "labels" if dataset.classification else "quantities"
            raise SpecError(f"metric {name!r} is not for {kind}, which the targets are; for those are {', '.join(fit)}")
        try:
            meters = Meters([name])
            meters.update(drawn, target)
            meters.compute()
        except SpecError:
            raise
        except Exception as exc:
            raise SpecError(
                f"metric {name!r} fails on outputs of shape {tuple(drawn.shape)} and targets of shape "
                f"{tuple(target.shape)}: {type(exc).__name__}: {' '.join(str(exc).split())}"
            ) from exc


def _try_rule(what: str, rule: rules.Rule, network: Network) -> None:
    """Ask it for everything that it says of a boundary."""
    last, places = len(network), len(network.positions)
    for boundary in network.boundaries:
        try:
            origin, shape, teacher = rule.origin(boundary), rule.shape(boundary), rule.teacher(boundary)
        except Exception as exc:
            raise SpecError(f"{what} fails at boundary {boundary}: {type(exc).__name__}: {exc}") from exc
        if origin is not None and not boundary < origin <= last:
            raise SpecError(
                f"{what}: origin({boundary}) is {origin!r}; it must be a layer above, {boundary + 1} to {last}, or None"
            )
        if not (isinstance(shape, tuple) and all(isinstance(size, int) and size > 0 for size in shape)):
            raise SpecError(f"{what}: shape({boundary}) is {shape!r}; it must be a tuple of whole numbers above 0")
        if teacher is None:
            continue
        if not isinstance(teacher, Tensor):
            raise SpecError(
                f"{what}: teacher({boundary}) is a {type(teacher).__name__}; it must be a torch.Tensor or None"
            )
        rows = shape[-1] if rule.is_direct else rule.width(boundary)
        wanted = (rows, math.prod(network.shapes[boundary][places:]))
        if tuple(teacher.shape) != wanted:
            raise SpecError(f"{what}: teacher({boundary}) has shape {tuple(teacher.shape)}; it must have {wanted}")
