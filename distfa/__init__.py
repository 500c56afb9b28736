"""distfa: layer-parallel training of neural networks without backpropagation's weight transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distfa.version import __version__

if TYPE_CHECKING:
    from distfa import data, errors
    from distfa.core.split import split
    from distfa.experiment.callbacks import BestWeights, Callback, EarlyStopping
    from distfa.experiment.evaluate import evaluate_run as evaluate
    from distfa.experiment.export import export_run as export
    from distfa.experiment.history import History
    from distfa.experiment.predict import predict_run as predict
    from distfa.experiment.result import Result
    from distfa.experiment.spec import RunSpec
    from distfa.experiment.trainer import Trainer

_WHERE = {
    "BestWeights": ("distfa.experiment.callbacks", "BestWeights"),
    "Callback": ("distfa.experiment.callbacks", "Callback"),
    "EarlyStopping": ("distfa.experiment.callbacks", "EarlyStopping"),
    "History": ("distfa.experiment.history", "History"),
    "Result": ("distfa.experiment.result", "Result"),
    "RunSpec": ("distfa.experiment.spec", "RunSpec"),
    "Trainer": ("distfa.experiment.trainer", "Trainer"),
    "data": ("distfa.data", None),
    "errors": ("distfa.errors", None),
    "export": ("distfa.experiment.export", "export_run"),
    "evaluate": ("distfa.experiment.evaluate", "evaluate_run"),
    "predict": ("distfa.experiment.predict", "predict_run"),
    "split": ("distfa.core.split", "split"),
}

__all__ = [
    "BestWeights",
    "Callback",
    "EarlyStopping",
    "History",
    "Result",
    "RunSpec",
    "Trainer",
    "__version__",
    "data",
    "errors",
    "evaluate",
    "export",
    "predict",
    "split",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import distfa.core`` loads neither Ray nor gRPC."""
    if name not in _WHERE:
        raise AttributeError(f"module 'distfa' has no attribute {name!r}; it has {', '.join(_WHERE)}")
    import importlib

    module, attribute = _WHERE[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
