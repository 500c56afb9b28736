"""Records of one kind, kept so that a million of them have room: dictionaries would take ten times as much."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

_ABSENT, _NONE, _FLOAT, _INT, _BOOL = range(5)
_CODES: dict[type, int] = {type(None): _NONE, float: _FLOAT, int: _INT, bool: _BOOL}
_AS: tuple[Callable[[float], Any], ...] = (lambda value: None, lambda value: None, float, int, bool)


class Lines(Sequence[dict[str, Any]]):
    """A sequence of records with parts, each kept as its line and read again whenever it is asked for."""

    def __init__(self, read: Callable[[bytes], dict[str, Any]]) -> None:
        self._read = read
        self._lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        """Add a record by its line."""
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        found = self._lines[index]
        return self._read(found) if isinstance(found, bytes) else [self._read(line) for line in found]


class Columns(Sequence[dict[str, Any]]):
    """A sequence of records with the same or nearly the same keys.

    Numbers, booleans and null are kept, as they were; text and lists, which no figure draws, are not.
    """

    def __init__(self) -> None:
        self._columns: dict[str, tuple[array[float], bytearray]] = {}
        self._count = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        for key, value in record.items():
            code = _CODES.get(type(value), _ABSENT)
            if code == _ABSENT:
                continue
            values, codes = self._columns.setdefault(key, (array("d"), bytearray()))
            self._fill(values, codes)
            values.append(value or 0.0)
            codes.append(code)
        self._count += 1

    def of(self, key: str) -> Iterator[Any]:
        """One figure of every record; None where a record has none."""
        values, codes = self._columns.get(key, (array("d"), bytearray()))
        self._fill(values, codes)
        return (_AS[code](value) for value, code in zip(values, codes, strict=True))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self._count))]
        at = range(self._count)[index]
        return {
            key: _AS[codes[at]](values[at])
            for key, (values, codes) in self._columns.items()
            if at < len(codes) and codes[at] != _ABSENT
        }

    def points(self, *keys: str) -> Iterator[tuple[Any, ...]]:
        """The step of every record that has the first of these figures, with all of them."""
        found = zip(self.of("step"), *map(self.of, keys), strict=True)
        return (point for point in found if point[1] is not None)

    def _fill(self, values: array[float], codes: bytearray) -> None:
        """Let a column reach the last record: those before it did not have this key."""
        if missing := self._count - len(codes):
            values.extend([0.0] * missing)
            codes.extend(bytes(missing))
