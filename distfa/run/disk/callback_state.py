"""The state of callbacks as bytes: numbers, text, tensors, arrays, and lists, tuples, sets and dictionaries of these.

Nothing else can be read back, so that to read a checkpoint never runs code that somebody put into it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import torch

from distfa.errors import CheckpointError

_NUMPY = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
_NUMPY_FLOATS = (np.float16, np.float32, np.float64, np.complex64, np.complex128)


def pack_state(state: Any) -> bytes:
    """The state as bytes that ``unpack_state`` takes.

    Raises:
        CheckpointError: It holds something that cannot be read back.
    """
    file = io.BytesIO()
    try:
        torch.save(state, file)
    except Exception as exc:
        raise CheckpointError(f"the state of callbacks cannot be written: {type(exc).__name__}: {exc}") from exc
    unpack_state(file.getvalue())
    return file.getvalue()


def unpack_state(content: bytes) -> Any:
    """The state again.

    Raises:
        CheckpointError: It holds something else than numbers, text, tensors, arrays and collections of these.
    """
    try:
        with torch.serialization.safe_globals(_plain()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as exc:
        why = " ".join(str(exc).split())
        raise CheckpointError(f"the state of callbacks cannot be read back: {why}") from exc


def why_refused(state: Any) -> str | None:
    """Why a checkpoint cannot hold a state; None if it can."""
    try:
        pack_state(state)
    except CheckpointError:
        return next(
            (f"it holds a {type(part).__name__}" for part in _parts(state) if not _can(part)), "it holds other objects"
        )
    return None


def _can(part: Any) -> bool:
    with contextlib.suppress(CheckpointError):
        pack_state(part)
        return True
    return False


def _parts(state: Any) -> list[Any]:
    """The innermost values."""
    if isinstance(state, dict):
        return [inner for pair in state.items() for part in pair for inner in _parts(part)]
    if isinstance(state, list | tuple | set):
        return [inner for part in state for inner in _parts(part)]
    return [state]


def _plain() -> list[Any]:
    """The types that rebuild numpy's numbers and arrays, besides those that torch accepts anyway."""
    makers = [np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0], np.ndarray, np.dtype]
    kinds = [type(np.dtype(kind)) for kind in (*_NUMPY, *_NUMPY_FLOATS, np.str_, np.bytes_)]
    return [*makers, *kinds]
