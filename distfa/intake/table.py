"""Tables become inputs and targets by the names of their columns: pandas, Ray Data, dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distfa.data.arrays import to_numpy
from distfa.data.dataset import Array
from distfa.data.labels import is_text, list_names
from distfa.data.reading import Reading
from distfa.errors import DataError

_USUAL = ("y", "label", "target")


@dataclass(frozen=True, kw_only=True)
class Given:
    """The data that were given, in memory.

    Attributes:
        x: Inputs (n, ...).
        y: Targets (n, ...), numbers or text; None if there are none.
        columns: Names of the input columns, if it was a table.
        target: Name of the column of targets.
        names: The classes of a pandas categorical, in its order.
    """

    x: Array
    y: Array | None
    columns: tuple[str, ...] = ()
    target: str | None = None
    names: tuple[str, ...] = ()


def read_table(given: Any) -> dict[str, Any] | None:
    """The columns by name; None if it is no table.

    Raises:
        DataError: Two columns have the same name.
    """
    if hasattr(given, "iter_batches") and hasattr(given, "schema"):  # Ray Data
        parts = _read_in_order(given)
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):  # pandas
        names = [str(name) for name in given.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"the table has several columns named {list_names(twice)}; give each its own name")
        return {str(name): given[name] for name in given.columns}
    return {str(name): values for name, values in given.items()} if isinstance(given, Mapping) else None


def split_table(
    columns: Mapping[str, Any], target: str | None, reading: Reading | None, *, targets: bool, tokens: bool
) -> Given:
    """One column is learned from all the others, side by side, or from the only other one.

    Args:
        columns: The table.
        target: The column that is learned; None: the one that is called y, label or target.
        reading: What the first fit fixed, if there was one.
        targets: Whether the column that is learned must be there.
        tokens: Whether integers stand for symbols.

    Raises:
        DataError: It is not there, or a column is no column of numbers.
    """
    known = reading.columns if reading else ()
    usual = next((name for name in _USUAL if name in columns and name not in known), None)
    name = target or usual
    if targets and (name is None or name not in columns):
        raise DataError(
            f"the table has columns {', '.join(columns)}"
            + (f", but none is named {target!r}" if target else "; say which one to learn: fit(table, target=NAME)")
        )
    rest = tuple(key for key in columns if key != name)
    learned = columns[name] if targets and name is not None else None
    return Given(
        x=stack_columns({key: columns[key] for key in rest}, tokens=tokens),
        y=None if learned is None else to_numpy(learned, f"column {name!r}", text=True),
        columns=rest,
        target=name,
        names=categories(learned),
    )


def stack_columns(columns: Mapping[str, Any], *, tokens: bool) -> Array:
    """Columns of numbers as (n, columns), in float32, tokens as they are; a single column as it is.

    Raises:
        DataError: One holds text or has missing values, or there is none.
    """
    found = {key: to_numpy(value, f"column {key!r}", text=True) for key, value in columns.items()}
    if not found:
        raise DataError("the table has no input columns; give at least one besides the column to learn")
    if text := next((key for key, value in found.items() if is_text(value)), None):
        raise DataError(
            f"column {text!r} holds {found[text].dtype}; inputs must be numbers: encode it, for example with "
            "pandas.get_dummies, or remove it"
        )
    if len(found) == 1:
        return next(iter(found.values()))
    if tokens and all(value.dtype.kind in "iu" for value in found.values()):
        return np.column_stack(list(found.values()))
    return np.column_stack([value.astype(np.float64) for value in found.values()]).astype(np.float32)


def categories(values: Any) -> tuple[str, ...]:
    """The classes of a pandas categorical of text, in its order; empty for anything else."""
    found = getattr(getattr(values, "dtype", None), "categories", None)
    return () if found is None else tuple(map(str, found))


def _read_in_order(given: Any) -> list[Any]:
    """Batches of Ray Data with the order of rows kept, so that a run can be repeated."""
    options = given.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        return list(given.iter_batches(batch_format="numpy"))
    finally:
        options.preserve_order = before
