"""How a run went, epoch by epoch: a table to read, plot and save."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distfa.data import Dataset
from distfa.text.words import hint, pluralize

COLUMNS = ("epoch", "step", "seconds", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
Row = dict[str, Any]
_FORMATS = {name: "{}" if name in ("epoch", "step") else "{:.4f}" for name in COLUMNS}


class History:
    """One row per epoch; a second ``fit`` adds to it.

    Example:
        >>> history["test_loss"]  # a list, one figure per epoch
        >>> history.to_pandas().plot(x="epoch", y="test_accuracy")
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        if column not in COLUMNS:
            raise KeyError(
                f"{column!r} is not a column of the history; the columns are "
                f"{', '.join(COLUMNS)}{hint(column, COLUMNS)}"
            )
        return [row.get(column) for row in self.rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold anything: a regression has no accuracy."""
        return tuple(name for name in COLUMNS if any(row.get(name) is not None for row in self.rows))

    def to_pandas(self) -> Any:
        """A pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame([{name: row.get(name) for name in self.columns} for row in self.rows])

    def __str__(self) -> str:
        cells = [list(self.columns), *([_cell(name, row.get(name)) for name in self.columns] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells)

    def __repr__(self) -> str:
        return f"History of {pluralize(len(self), 'epoch')}\n{self}" if self.rows else "History, empty"

    def _repr_html_(self) -> str:
        from distfa.pages.page import Table  # with a browser only, as pandas

        return Table(columns={name: name for name in self.columns}, rows=self.rows, formats=_FORMATS).html()


def columns_of(dataset: Dataset, loss: str) -> tuple[str, ...]:
    """The figures that a run on these data has."""
    kinds = ("loss", "accuracy") if dataset.classification or loss == "bce" else ("loss",)
    splits = ("train", "test") if len(dataset.test_x) else ("train",)
    return tuple(f"{split}_{kind}" for split in splits for kind in kinds)


def _cell(name: str, value: Any) -> str:
    return "-" if value is None else _FORMATS[name].format(value)
