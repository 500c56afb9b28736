"""Turns what goes wrong inside a layer into one error that names the layer and the step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

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


def blame_layer(layer: int, step: int, error: Exception) -> LayerError:
    """The error of a layer that another error is turned into."""
    return LayerError(
        f"layer {layer}, step {step}: {explain_memory_error(error) or f'{type(error).__name__}: {error}'}"
    )


def blame_own_layer(method: M) -> M:
    """Decorates methods on a batch, of objects with a ``layer``: errors in them become errors of that layer."""

    @functools.wraps(method)
    def guarded(self: Any, batch: Batch, *rest: Any) -> Any:
        try:
            return method(self, batch, *rest)
        except ModelError as exc:
            raise LayerError(f"layer {self.layer.index}, step {batch.step}: {exc}") from exc
        except DistfaError:
            raise
        except Exception as exc:
            raise blame_layer(self.layer.index, batch.step, exc) from exc

    return cast(M, guarded)
