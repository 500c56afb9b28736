"""Rules about the values of one array; each message gives the first value that breaks it, and where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.errors import DataError


def check_finite(values: NDArray[Any], where: str) -> None:
    """Refuse NaN and infinity; integer arrays pass without a scan.

    Args:
        values: (n, width).
        where: What the message calls the array.

    Raises:
        DataError: The values hold any; the message has their count and the place of the first one.
    """
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = divmod(int(np.argmin(finite)), values.shape[1])
    count = int(values.size - np.count_nonzero(finite))
    raise DataError(
        f"{where} holds NaN or infinity in {count} of {values.size} values, "
        f"the first ({values[row, column]}) at row {row}, column {column}; "
        "drop those rows or replace the values"
    )


def check_labels(labels: NDArray[Any], outputs: int, where: str) -> None:
    """Refuse labels outside 0 .. outputs - 1.

    Args:
        labels: (n,) or (n, T) of an integer dtype.
        outputs: Number of classes.
        where: What the message calls the array.

    Raises:
        DataError: There is one; the message has the first such label, its place and the allowed range.
    """
    if (wrong := _first_outside(labels, outputs)) is not None:
        raise DataError(
            f"{where} has label {wrong}; labels must be 0 .. {outputs - 1} for {outputs} classes; "
            "renumber them or raise the number of classes"
        )


def check_tokens(x: NDArray[Any], tokens: int, where: str) -> None:
    """Refuse tokens outside 0 .. tokens - 1.

    Args:
        x: (n, d) of an integer dtype.
        tokens: Size of the vocabulary.
        where: What the message calls the array.

    Raises:
        DataError: The vocabulary is empty, or there is such a token; the message has the first one, its place and the
            allowed range.
    """
    if tokens < 1:
        raise DataError(f"{where}: tokens is {tokens}; it is the size of the vocabulary and must be at least 1")
    if (wrong := _first_outside(x, tokens)) is not None:
        raise DataError(
            f"{where} has token {wrong}; tokens must be 0 .. {tokens - 1} for a vocabulary of {tokens}; "
            "renumber them or raise tokens"
        )


def check_positions(y: NDArray[Any], shape: tuple[int, ...], tokens: int | None, where: str) -> None:
    """Refuse integer targets (n, T) unless each sample is a sequence of T > 1 positions.

    Only then must they mean a label per position. In any other case they could also be one-hot rows, labels with a
    needless axis, or quantities.

    Args:
        y: (n, ...) of an integer dtype, two axes or more.
        shape: Shape of one sample: (T, ...) for tokens, (T, features) for other sequences.
        tokens: Size of the vocabulary, or None.
        where: What the message calls the array.

    Raises:
        DataError: They have another shape.
    """
    is_sequence = tokens is not None or len(shape) == 2
    if is_sequence and y.ndim == 2 and y.shape[1] == shape[0] > 1:
        return
    raise DataError(
        f"{where} is {y.dtype} of shape {y.shape}, but samples have shape {shape}; class labels must have shape "
        "(n,), or (n, T) where samples are sequences of T > 1 positions: tokens (n, T), or features (n, T, f). "
        "Use reshape(-1) for one label per row, argmax(1) for one-hot rows, or astype(float) for regression "
        "targets"
    )


def _first_outside(values: NDArray[Any], count: int) -> str | None:
    """The first value that is not 0 .. count - 1 and where it is, or None."""
    if values.size == 0 or (values.min() >= 0 and values.max() < count):
        return None
    place = np.unravel_index(int(np.argmax((values < 0) | (values >= count))), values.shape)
    column = f", column {place[1]}" if values.ndim > 1 else ""
    return f"{values[place]} at row {place[0]}{column}"
