"""Turns what goes wrong inside a layer into one error that names the layer and the step."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
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

    @contextlib.contextmanager
    def blaming(layer: int, step: int) -> Iterator[None]:
        try:
            yield
        except ModelError as exc:
            raise LayerError(f"layer {layer}, step {step}: {exc}") from exc
        except DistfaError:
            raise
        except Exception as exc:
            raise blame_layer(layer, step, exc) from exc

    @functools.wraps(method)
    def call(self: Any, batch: Batch, *rest: Any) -> Any:
        with blaming(self.layer.index, batch.step):
            return method(self, batch, *rest)

    @functools.wraps(method)
    def work(self: Any, batch: Batch, *rest: Any) -> Any:
        with blaming(self.layer.index, batch.step):
            return (yield from method(self, batch, *rest))

    return cast(M, work if inspect.isgeneratorfunction(method) else call)
