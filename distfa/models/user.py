"""A user's own model, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from torch import nn

from distfa.errors import ModelError, SpecError
from distfa.text.words import hint


def load_model(path: str) -> nn.Module:
    """Import a function, call it without arguments, and return the model it makes.

    The current directory is added at the end of ``sys.path`` if it is not on it, so that a file there is found but
    shadows no installed package.

    Args:
        path: ``package.module:function``.

    Raises:
        SpecError: The path has another form, or there is no such module or function.
        ModelError: To import or call it raised an error, or it returned no ``nn.Module``.
    """
    name, colon, function = path.partition(":")
    if not colon or not all(part.isidentifier() for part in [*name.split("."), function]):
        raise SpecError(f"model {path!r} is not of the form package.module:function, such as my_package.nets:make")
    make = _find(_import(name, path), function, path)
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


def also_look_in(folder: str) -> None:
    """Let files in a folder be found, but shadow no installed package."""
    if folder and folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.append(folder)


def _import(name: str, path: str) -> ModuleType:
    also_look_in(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
            raise SpecError(
                f"model {path!r}: there is no module {exc.name!r}; run in its folder, install it, "
                "or put its folder on PYTHONPATH"
            ) from exc
        raise ModelError(f"model {path!r}: importing {name} raised {_describe(exc)}; fix the module") from exc


def _find(module: ModuleType, function: str, path: str) -> Any:
    found = getattr(module, function, None)
    if callable(found):
        return found
    if found is not None:
        raise SpecError(
            f"model {path!r}: {function} is a {type(found).__name__}; give the name of a function that returns "
            "the model"
        )
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    raise SpecError(f"model {path!r}: {module.__file__} has no function {function!r}{hint(function, own)}")


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
