"""distfa: layer-parallel training of neural networks without backpropagation's weight transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distfa.version import __version__

if TYPE_CHECKING:
    from distfa import data, errors
    from distfa.api.callbacks import At, BestWeights, Callback, EarlyStopping
    from distfa.api.evaluate import evaluate_run as evaluate
    from distfa.api.export import export_run as export
    from distfa.api.history import History
    from distfa.api.loggers import MLFlowLogger, WandbLogger
    from distfa.api.metrics import Scores
    from distfa.api.predict import predict_run as predict
    from distfa.api.trainer import Trainer
    from distfa.core.rules import DirectRule, HopRule, Rule
    from distfa.data.reading import Reading
    from distfa.run.result import Result
    from distfa.sections.split import split
    from distfa.settings import RunSpec

_WHERE = {
    "At": ("distfa.api.callbacks", "At"),
    "BestWeights": ("distfa.api.callbacks", "BestWeights"),
    "Callback": ("distfa.api.callbacks", "Callback"),
    "DirectRule": ("distfa.core.rules", "DirectRule"),
    "EarlyStopping": ("distfa.api.callbacks", "EarlyStopping"),
    "History": ("distfa.api.history", "History"),
    "HopRule": ("distfa.core.rules", "HopRule"),
    "MLFlowLogger": ("distfa.api.loggers", "MLFlowLogger"),
    "Reading": ("distfa.data.reading", "Reading"),
    "Result": ("distfa.run.result", "Result"),
    "Rule": ("distfa.core.rules", "Rule"),
    "RunSpec": ("distfa.settings", "RunSpec"),
    "Scores": ("distfa.api.metrics", "Scores"),
    "Trainer": ("distfa.api.trainer", "Trainer"),
    "WandbLogger": ("distfa.api.loggers", "WandbLogger"),
    "data": ("distfa.data", None),
    "errors": ("distfa.errors", None),
    "export": ("distfa.api.export", "export_run"),
    "evaluate": ("distfa.api.evaluate", "evaluate_run"),
    "predict": ("distfa.api.predict", "predict_run"),
    "split": ("distfa.sections.split", "split"),
}

__all__ = [
    "At",
    "BestWeights",
    "Callback",
    "DirectRule",
    "EarlyStopping",
    "History",
    "HopRule",
    "MLFlowLogger",
    "Reading",
    "Result",
    "Rule",
    "RunSpec",
    "Scores",
    "Trainer",
    "WandbLogger",
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
