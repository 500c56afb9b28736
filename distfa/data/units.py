"""Whether samples are raw or already normalised, as their numbers say it; what they do not say is refused."""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from distfa.data.dataset import Array
from distfa.data.reading import InputSummary, Reading, some_rows
from distfa.errors import DataError

log = logging.getLogger(__name__)
Scale = tuple[NDArray[np.float64], NDArray[np.float64]]

AS_THEY_ARE: Scale = (np.zeros(1), np.ones(1))

# Distances are |mean - mean'| / std' + |log(std / std')|, between what is given and what was trained on.
_NEAR, _FAR = 0.5, 2.0  # the nearer of two must not be further away than this: many samples, and a single one
_APART = 1.0  # the other must be further away by this much
_OTHER_SET = 3.0  # raw samples of another data set may be this far away
_SAME = 0.01  # two readings that differ by less than this, in units of the training inputs' std, are one
_ROUND_OFF, _MOST_OF_A_BYTE = 0.02, 255  # of bytes that were normalised and are raw again
_OTHER_UNIT = 8.0  # pixels 0 .. 1 and 0 .. 255 are 255 times apart


def scale_for(x: Array, own: Scale, reading: Reading, *, normalised: bool | None, where: str) -> Scale:
    """Mean and std by which samples become inputs: those of the reading, or the samples' own.

    Args:
        x: (n, d), before any scale.
        own: Mean and std that came with the samples: ``AS_THEY_ARE`` for arrays.
        reading: What was trained on.
        normalised: Whether the samples are already normalised; None: decided by their values.
        where: What messages call the samples.

    Raises:
        DataError: The numbers do not say which it is, or are in other units than those of the training.
    """
    fixed = np.array(reading.mean), np.array(reading.std)
    if reading.tokens is not None or normalised is False:
        return fixed
    if normalised:
        return AS_THEY_ARE
    if is_same_scale(own, fixed):
        _require_unit(x, reading, where)
        return fixed
    # both say that the samples are raw
    if not is_same_scale(own, AS_THEY_ARE) and not is_same_scale(fixed, AS_THEY_ARE):
        return _raw_scale(some_rows(x), fixed, reading, where)
    return _nearer_scale(some_rows(x), own, fixed, reading, where)


def _raw_scale(rows: Array, fixed: Scale, reading: Reading, where: str) -> Scale:
    """The first fit's scale, if the samples are in the units of the training."""
    values = rows.astype(np.float64)
    if reading.seen is not None and _distance(values, fixed, reading.seen) > _OTHER_SET:
        raise DataError(
            f"{where}: values ({_range(values)}) are not in the units of the first fit's samples, whose values went "
            f"up to {reading.seen.largest:.4g}; pass them in the same units, or train a new model (reset, or a "
            "new Trainer)"
        )
    return fixed


def _nearer_scale(rows: Array, own: Scale, fixed: Scale, reading: Reading, where: str) -> Scale:
    """The one of two scales that makes the samples look like the training inputs."""
    if not rows.size or reading.seen is None:
        return fixed
    values = rows.astype(np.float64)
    arrays = is_same_scale(own, AS_THEY_ARE)
    found = _byte_scale(rows, values, own, fixed) if arrays and reading.dtype == "uint8" else None
    if found is None:
        found = _likelier_scale(values, own, fixed, reading, reading.seen)
    if found is None:
        raise DataError(_doubt(values, own, reading, where))
    if found is own:
        how = "are already normalised" if arrays else "need their own mean and std"
        log.warning(
            "%s: judging by their values (%s), they %s; the first fit's mean and std are not applied to them",
            *(where, _range(values), how),
        )
    return found


def _byte_scale(rows: Array, values: Array, own: Scale, fixed: Scale) -> Scale | None:
    """For training samples that were bytes: bytes are raw, what becomes bytes by undoing the scale is normalised."""
    if rows.dtype == np.uint8 or (_are_bytes(values) and values.max() > 1):
        return fixed
    return own if _are_bytes(values * fixed[1] + fixed[0]) else None


def _are_bytes(values: Array) -> bool:
    whole = np.round(values)
    return bool((np.abs(values - whole) < _ROUND_OFF).all()) and whole.min() >= 0 and whole.max() <= _MOST_OF_A_BYTE


def _likelier_scale(values: Array, own: Scale, fixed: Scale, reading: Reading, seen: InputSummary) -> Scale | None:
    """The scale under which mean and spread are those of the training inputs; None if that is doubtful."""
    raw, other = (_distance(values, scale, seen) for scale in (fixed, own))
    if max(raw, other) < math.inf and _differ(values, own, fixed, seen) < _SAME:
        return fixed
    near, far = sorted((raw, other))
    room = 0.0 if reading.dtype == "uint8" else (_FAR - _NEAR) / len(values)
    if near > _NEAR + room or far - near < _APART:
        return None
    return fixed if raw < other else own


def _distance(values: Array, scale: Scale, seen: InputSummary) -> float:
    read = (values - scale[0]) / scale[1]
    spread = float(read.std())
    if not spread or not seen.std:
        return math.inf
    return abs(float(read.mean()) - seen.mean) / seen.std + abs(math.log(spread / seen.std))


def _differ(values: Array, one: Scale, other: Scale, seen: InputSummary) -> float:
    """How far apart two scales put the same samples."""
    apart = (values - one[0]) / one[1] - (values - other[0]) / other[1]
    return float(np.abs(apart).max()) / seen.std if seen.std else math.inf


def _require_unit(x: Array, reading: Reading, where: str) -> None:
    """Refuse bytes for floats 0 .. 1, and floats 0 .. 1 for bytes."""
    if reading.seen is None or not len(x) or (x.dtype == np.uint8) == (reading.dtype == "uint8"):
        return
    made: InputSummary | None = getattr(x, "seen", None)
    largest = float(np.abs(some_rows(x).astype(np.float64)).max()) if made is None else made.largest
    ratio = largest / reading.seen.largest if largest and reading.seen.largest else 1.0
    if (x.dtype == np.uint8 and ratio > _OTHER_UNIT) or (reading.dtype == "uint8" and ratio < 1 / _OTHER_UNIT):
        raise DataError(
            f"{where}: {x.dtype} values up to {largest:.4g}, but the training samples were {reading.dtype} values "
            f"up to {reading.seen.largest:.4g}; pass them in the same units, such as pixels 0 .. 255 in both, or "
            "0 .. 1 in both"
        )


def is_same_scale(one: Scale, other: Scale) -> bool:
    """Whether two scales are one."""
    return all(bool((a == b).all()) for a, b in zip(one, other, strict=True))


def _range(values: Array) -> str:
    return f"{values.min():.4g} .. {values.max():.4g}, mean {values.mean():.3g}, std {values.std():.3g}"


def _doubt(values: Array, own: Scale, reading: Reading, where: str) -> str:
    mean, std = np.mean(reading.mean), np.mean(reading.std)
    other = "already normalised" if is_same_scale(own, AS_THEY_ARE) else "to be normalised by their own mean and std"
    return (
        f"{where}: values ({_range(values)}) could be raw, to be normalised as in the first fit (mean {mean:.3g}, "
        f"std {std:.3g} of {reading.dtype} values), or {other}, and the numbers do not show which; pass "
        "normalised=False or normalised=True"
    )
