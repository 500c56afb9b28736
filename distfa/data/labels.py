"""Labels that are text, and the numbers they get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distfa.data.dataset import Array
from distfa.errors import DataError


def to_numbers(values: Array, where: str) -> Array:
    """Objects that are numbers as numbers of one type; anything else as it is.

    Raises:
        DataError: A value is missing (None, NaN, NA); the message says in which row.
    """
    if values.dtype.kind != "O":
        return values
    missing = next((place for place, value in enumerate(values.flat) if _is_missing(value)), None)
    if missing is not None:
        row = missing // max(math.prod(values.shape[1:]), 1)
        raise DataError(f"{where} has no value at row {row}; drop such rows, or fill in a value")
    found = np.asarray(values.tolist())
    return found if found.dtype.kind in "buif" else values


def is_text(values: Array) -> bool:
    """Whether values are text, not numbers."""
    return values.dtype.kind in "US"


def names_of(parts: Sequence[Array], known: Sequence[str] = ()) -> tuple[str, ...]:
    """The classes in text labels: those that have a place in ``known`` in its order, then the others, sorted."""
    found = {name for part in parts for name in map(str, np.unique(part).astype(str).tolist())}
    return (*(name for name in known if name in found), *sorted(found.difference(known)))


def number_labels(labels: Array, names: Sequence[str], where: str) -> Array:
    """The number of each text label, int64.

    Raises:
        DataError: A label is not among the names.
    """
    text = labels.astype(str)
    order = np.argsort(np.asarray(names, dtype=str))
    in_order = np.asarray(names, dtype=str)[order]
    places = np.minimum(np.searchsorted(in_order, text), len(names) - 1)
    if (wrong := in_order[places] != text).any():
        row = int(np.argmax(wrong.reshape(len(wrong), -1).any(1)))
        raise DataError(
            f"{where} has the label {str(text[wrong][0])!r} at row {row}, which is not among the classes of the "
            f"first fit: {list_names(names)}; remove such rows, or train a new model (reset, or a new Trainer) on "
            "all classes"
        )
    return np.asarray(order[places], dtype=np.int64)


def list_names(names: Sequence[str], most: int = 12) -> str:
    """Names in a message, not all if there are many."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in total)" if len(names) > most else "")


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # NA of pandas has no truth value; an array is no single value
        return not hasattr(value, "__len__")
