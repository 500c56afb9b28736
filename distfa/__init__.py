"""distfa: layer-parallel training of neural networks without backpropagation's weight transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distfa.version import __version__

if TYPE_CHECKING:
    from distfa.core.split import split
    from distfa.experiment.evaluate import evaluate_run as evaluate
    from distfa.experiment.spec import RunSpec
    from distfa.experiment.trainer import Trainer

__all__ = ["RunSpec", "Trainer", "__version__", "evaluate", "split"]

_WHERE = {
    "RunSpec": ("distfa.experiment.spec", "RunSpec"),
    "Trainer": ("distfa.experiment.trainer", "Trainer"),
    "evaluate": ("distfa.experiment.evaluate", "evaluate_run"),
    "split": ("distfa.core.split", "split"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import distfa.core`` loads neither Ray nor gRPC."""
    if name not in _WHERE:
        raise AttributeError(f"module 'distfa' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
