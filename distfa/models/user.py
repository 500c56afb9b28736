"""A user's own model, named as ``package.module:function``."""

from __future__ import annotations

from torch import nn

from distfa.errors import ModelError, SpecError
from distfa.own.finding import find_object, is_path


def load_model(path: str) -> nn.Module:
    """Import a function, call it without arguments, and return the model it makes.

    Args:
        path: ``package.module:function``.

    Raises:
        SpecError: The path has another form, or there is no such module or function.
        ModelError: To import or call it raised an error, or it returned no ``nn.Module``.
    """
    if not is_path(path):
        raise SpecError(f"model {path!r} is not of the form package.module:function, such as my_package.nets:make")
    function = path.partition(":")[2]
    make = find_object(path, f"model {path!r}", "function")
    if not callable(make):
        raise SpecError(
            f"model {path!r}: {function} is a {type(make).__name__}; give the name of a function that returns the model"
        )
    try:
        model = make()
    except (Exception, SystemExit) as exc:
        raise ModelError(
            f"model {path!r}: {function}() raised {_describe(exc)}; it is called without arguments and must return "
            "the model"
        ) from exc
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ModelError(f"model {path!r}: {function}() returned {found}; it must return a torch.nn.Module")
    return model


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
