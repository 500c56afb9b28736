"""Records of one kind, kept so that a million of them have room: dictionaries would take ten times as much."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, overload

Row = dict[str, Any]
_CODES = {NoneType: 1, float: 2, int: 3, bool: 4}  # 0: the record does not have this key
_AS: tuple[Callable[[float], Any], ...] = (lambda value: None, lambda value: None, float, int, bool)


class _Records(Sequence[Row]):
    """A sequence of records that are made when they are asked for."""

    @abstractmethod
    def at(self, index: int) -> Row:
        """One record; the first has index 0."""

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        found = range(len(self))[index]
        return self.at(found) if isinstance(found, int) else [self.at(k) for k in found]


class Lines(_Records):
    """Records with parts, each kept as its line."""

    def __init__(self, read: Callable[[bytes], Row]) -> None:
        self._read = read
        self._lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        """Add a record by its line."""
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._lines)

    def at(self, index: int) -> Row:
        return self._read(self._lines[index])


class Columns(_Records):
    """Records with the same or nearly the same keys.

    Numbers, booleans and null are kept, as they were; text and lists, which no figure draws, are not.
    """

    def __init__(self) -> None:
        self._columns: dict[str, tuple[array[float], bytearray]] = {}
        self._count = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        for key, value in record.items():
            if code := _CODES.get(type(value)):
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

    def at(self, index: int) -> Row:
        return {
            key: _AS[codes[index]](values[index])
            for key, (values, codes) in self._columns.items()
            if index < len(codes) and codes[index]
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
