"""Turns what goes wrong inside a layer into one error that names the layer and the step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

from distfa.core.base.order import Batch
from distfa.errors import DistfaError, LayerError, ModelError

M = TypeVar("M", bound=Callable[..., Any])
_SHORT = ("out of memory", "allocate memory", "not enough memory")  # torch says so in a plain RuntimeError
_TEXT_CHARACTERS = 300


def explain_memory_error(error: BaseException) -> str | None:
    """The text for an error that says that memory is missing; None for any other error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and any(short in text.lower() for short in _SHORT)
    ):
        return None
    first = (text.splitlines() or [""])[0][:_TEXT_CHARACTERS].rstrip(". ")
    said = f"{type(error).__name__}: {first}".rstrip(": ")
    return (
        f"there is not enough memory ({said}); make batch_size smaller, split each batch into more micro_batches, "
        "or use a machine or GPU with more memory"
    )


def blame_layer(layer: int, step: int, error: Exception) -> NoReturn:
    """Raise an error as one of a layer, or as it is if it says of itself where it comes from."""
    if isinstance(error, DistfaError) and not isinstance(error, ModelError):
        raise error
    what = explain_memory_error(error) or f"{type(error).__name__}: {error}"
    raise LayerError(f"layer {layer}, step {step}: {error if isinstance(error, ModelError) else what}") from error


def blame_own_layer(method: M) -> M:
    """Decorates methods on a batch, of objects with a ``layer``: errors in them become errors of that layer."""

    @functools.wraps(method)
    def call(self: Any, batch: Batch, *rest: Any) -> Any:
        try:
            return method(self, batch, *rest)
        except Exception as exc:
            blame_layer(self.layer.index, batch.step, exc)

    @functools.wraps(method)
    def work(self: Any, batch: Batch, *rest: Any) -> Any:
        try:
            return (yield from method(self, batch, *rest))
        except Exception as exc:
            blame_layer(self.layer.index, batch.step, exc)

    return cast(M, work if inspect.isgeneratorfunction(method) else call)
