"""Reader of pickled CIFAR batches that can build only arrays and containers.

A pickle names functions to call. Here every name is refused except the five that a pickled array needs, and those five
stand for the small classes below. So no code outside this file runs, and numpy's own ``__setstate__`` (which trusts its
input) is never called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from distfa.data.dataset import Array
from distfa.errors import DataError

_TYPE_CODES = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary a batch file holds, keys as text, arrays as numpy arrays.

    Raises:
        DataError: The file cannot be read, is damaged, names anything other than arrays, or holds no dictionary.
    """
    try:
        content = path.read_bytes()
        _check_memo(content)
        return _batch(_ArrayUnpickler(io.BytesIO(content), encoding="bytes").load())
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc}); check the path and its permissions") from exc
    except Exception as exc:  # a damaged pickle can raise anything: the pickle module does not document what
        raise DataError(
            f"{path}: truncated or corrupt pickle ({type(exc).__name__}: {exc}); download it again"
        ) from exc


def _check_memo(content: bytes) -> None:
    """Refuse a memo slot that no pickle of this length can need: its number alone would make the memo that large."""
    for opcode, slot, _ in pickletools.genops(content):
        if opcode.name in _MEMO_OPCODES and slot is not None and slot >= len(content):
            raise DataError(f"corrupt pickle, memo slot {slot} in {len(content)} bytes; download it again")


def _batch(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}, not the dictionary of a CIFAR batch")
    return {_text(key): value.array() if isinstance(value, _Array) else value for key, value in content.items()}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"pickle asks for {module}.{name}, but only plain arrays and containers are read; this is not an "
                "official CIFAR file: download it again, or convert it to .npz"
            )
        return _ALLOWED[module, name]


class _Dtype:
    """Stands for numpy.dtype: a plain number type and its byte order."""

    def __init__(self, code: object, *_flags: object) -> None:
        if _text(code) not in _TYPE_CODES:
            raise DataError(f"pickle holds an array of type {code!r}; only plain numbers are read")
        self.code = _text(code)
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


class _Array:
    """Stands for numpy.ndarray, as made by _reconstruct(ndarray, (0,), 'b') and filled by its state."""

    def __init__(self, *_placeholder: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> Array:
        """The array itself; the caller converts what a damaged state raises."""
        _version, shape, dtype, is_fortran, content = self.state
        flat = np.frombuffer(content, np.dtype(dtype.code).newbyteorder(dtype.order))
        return flat.reshape(shape, order="F" if is_fortran else "C")


def _encode_latin1(text: str, _encoding: str) -> bytes:
    """Stands for _codecs.encode, with which Python 3 writes bytes in protocol 2."""
    return text.encode("latin1")


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode_latin1,
}
