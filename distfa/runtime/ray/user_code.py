"""A user's own modules reach every node with their code, so the user's files need not be installed there.

Python sends an object with the name of its class, which the other end imports. That works for installed packages. For a
file beside the user's script, or a notebook, cloudpickle sends the class itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from ray import cloudpickle
from torch import nn

from distfa.own.digests import in_packages

_OURS = "distfa"  # nodes must have the same code of distfa, and ``survey`` checks that


@contextmanager
def send_code(
    modules: Iterable[nn.Module] = (), *, others: Iterable[object] = (), classes: Iterable[object] = ()
) -> Iterator[None]:
    """To be open while modules are sent: modules from files that are not installed take their code with them.

    Args:
        modules: The modules of a model.
        others: Data sets that make samples when they are read, with the transforms in them.
        classes: Classes.
    """
    parts = [*(part for module in modules for part in module.modules()), *_walk(others, depth=4), *classes]
    names = {
        (part.__module__ if callable(part) and hasattr(part, "__qualname__") else type(part).__module__)
        for part in parts
    }
    local = _with_what_they_import(names)
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def _with_what_they_import(names: Iterable[object]) -> list[ModuleType]:
    """The user's modules among these, and those of the functions and classes that they import."""
    found, waiting = dict[str, ModuleType](), {str(name).partition(".")[0] for name in names}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if module is None or name in found or not _is_local(module):
            continue
        found[name] = module
        for value in vars(module).values():
            home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            waiting.add(str(home).partition(".")[0])
    return [found[name] for name in sorted(found)]


def _walk(values: Iterable[object], *, depth: int) -> Iterator[object]:
    """Objects and functions, and those that they hold."""
    for value in values:
        if isinstance(value, list | tuple | dict):
            yield from _walk(value.values() if isinstance(value, dict) else value, depth=depth) if depth else ()
        elif hasattr(value, "__dict__") and not isinstance(value, ModuleType | type):
            yield value
            if depth:
                yield from _walk(list(vars(value).values()), depth=depth - 1)


def _is_local(module: ModuleType) -> bool:
    """Whether it is a user's file; ``__main__`` travels with its code anyway."""
    return module.__name__ not in ("__main__", _OURS) and not in_packages(getattr(module, "__file__", None))
