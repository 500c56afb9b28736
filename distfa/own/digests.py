"""A digest of what a user's object computes, and whether its code is that of an installed package."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any


def digest_of(value: Any) -> str:
    """A digest of what an object computes: of its code, and of the settings in it.

    The code is the whole file of its module, without comments and layout; in a script or a notebook, whose other lines
    say how it is used, it is that of the class or function alone.
    """
    found = hashlib.sha256()
    for text in _described(value, set()):
        found.update(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
        found.update(b"\0")
    return found.hexdigest()[:12]


def _described(value: Any, seen: set[int]) -> Iterable[str | bytes]:
    """All that decides what it computes; objects in a circle once."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
    elif hasattr(value, "detach"):  # a tensor
        yield from (str(value.dtype), str(tuple(value.shape)), repr(value.detach().cpu().tolist()))
    elif isinstance(value, Mapping):
        for key in value:
            yield from _described(key, seen)
            yield from _described(value[key], seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _described(item, seen)
    elif id(value) not in seen:
        seen.add(id(value))
        yield from _of_object(value, seen)


def _of_object(value: Any, seen: set[int]) -> Iterable[str | bytes]:
    if isinstance(value, partial):
        for inner in (value.func, value.args, value.keywords):
            yield from _described(inner, seen)
        return
    code = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    for part in code.__mro__ if isinstance(code, type) else (code,):
        yield from (part.__module__, part.__qualname__, "" if _is_compared(part) else _source(part))
    if code is not value:
        yield from _described(getattr(value, "__dict__", {}), seen)
    elif not isinstance(value, type):
        if "<lambda>" in code.__qualname__:  # others in the file have the same name
            yield _bytecode(getattr(code, "__code__", None))
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        yield from _described([cells, getattr(value, "__defaults__", None)], seen)


def _is_compared(code: Any) -> bool:
    """Whether it is of a library whose version nodes must agree on anyway."""
    library = str(code.__module__).partition(".")[0]
    return library in ("distfa", "torch", "numpy") or library in sys.stdlib_module_names - {"__main__"}


def _source(code: Any) -> str:
    module = sys.modules.get(code.__module__)
    try:
        alone = module is None or code.__module__ == "__main__" or not getattr(module, "__file__", None)
        text = inspect.getsource(code if alone or module is None else module)
        return ast.unparse(ast.parse(inspect.cleandoc(text) if alone else text))
    except (OSError, TypeError, SyntaxError):
        return _bytecode(getattr(code, "__code__", None))


def _bytecode(code: CodeType | None) -> str:
    """Where there is no source, as for what was typed at a prompt."""
    if code is None:
        return ""
    inner = [_bytecode(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def is_installed(value: Any) -> bool:
    """Whether its code is in a folder where packages are installed, so that other processes import it there."""
    module = sys.modules.get(_home(value))
    return module is not None and in_packages(getattr(module, "__file__", None))


def in_packages(file: str | None) -> bool:
    """Whether a module's file is where packages are installed; one without a file is Python's own."""
    if file is None:
        return True
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    named = {"site-packages", "dist-packages"} & set(Path(file).parts)  # of another environment that this one sees
    return bool(named) or any(Path(file).is_relative_to(folder) for folder in folders)


def _home(value: Any) -> str:
    """The module of its code."""
    value = value.func if isinstance(value, partial) else value
    named = value if hasattr(value, "__qualname__") else type(value)
    return str(named.__module__)
