"""Finds what a name of the form ``package.module:name`` says."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from distfa.errors import ModelError, SpecError
from distfa.text.words import hint

GIVEN_AS_OBJECT = "#"  # before the digest in the name of an object that cannot be imported


def is_path(name: str) -> bool:
    """Whether a name has the form ``package.module:name``, with a digest or without."""
    module, colon, inner = name.partition(GIVEN_AS_OBJECT)[0].partition(":")
    words = [*module.split("."), *inner.replace(".<locals>", "").split(".")]
    return bool(colon) and all(word.isidentifier() or word == "<lambda>" for word in words)


def find_object(path: str, what: str, example: str = "name") -> Any:
    """Import ``package.module:name``.

    The current directory is added at the end of ``sys.path`` if it is not on it, so that a file there is found but
    shadows no installed package.

    Args:
        path: The name.
        what: What it is to be, in words, for messages.
        example: What stands for the name in messages.

    Raises:
        SpecError: The path has another form, or there is no such module or name.
        ModelError: To import it raised an error.
    """
    module, _, name = path.partition(":")
    found: Any = _import_module(module, what)
    for word in name.split("."):
        if not hasattr(found, word):
            own = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            where = getattr(found, "__file__", None) or getattr(found, "__name__", module)
            raise SpecError(f"{what}: {where} has no {example} {word!r}{hint(word, own)}")
        found = getattr(found, word)
    return found


def also_look_in(folder: str) -> None:
    """Let files in a folder be found, but shadow no installed package."""
    if folder and folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.append(folder)


def _import_module(name: str, what: str) -> ModuleType:
    also_look_in(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
            raise SpecError(
                f"{what}: there is no module {exc.name!r}; run in its folder, install it, or put its folder on "
                "PYTHONPATH"
            ) from exc
        raise ModelError(f"{what}: importing {name} raised {type(exc).__name__}: {exc}; fix the module") from exc
