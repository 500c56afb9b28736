"""How a run went, epoch by epoch: a table to read, plot and save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distfa.core.base.metrics import PER_CLASS
from distfa.data import Dataset
from distfa.own.parts import short
from distfa.text.words import hint, pluralize

COLUMNS = ("epoch", "step", "seconds", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
Row = dict[str, Any]
METRICS_OF_ROW = "metrics"  # the figures of all metrics, which are no column


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
        known = self._known()
        if column not in known:
            raise KeyError(
                f"{column!r} is not a column of the history; the columns are {', '.join(known)}{hint(column, known)}"
            )
        return [row.get(column) for row in self.rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold anything: a regression has no accuracy."""
        return tuple(name for name in self._known() if any(row.get(name) is not None for row in self.rows))

    def _known(self) -> tuple[str, ...]:
        """The usual columns, then those of metrics that are one number."""
        return tuple(dict.fromkeys([*COLUMNS, *(name for row in self.rows for name in row if name != METRICS_OF_ROW)]))

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

        return Table(
            columns={name: name for name in self.columns},
            rows=self.rows,
            formats={name: _format(name) for name in self.columns},
        ).html()


def columns_of(dataset: Dataset, loss: str, metrics: Sequence[str]) -> tuple[str, ...]:
    """The figures that a run on these data has."""
    kinds = ("loss", "accuracy") if dataset.classification or loss == "bce" else ("loss",)
    splits = ("train", "test") if len(dataset.test_x) else ("train",)
    named = [f"test_{short(name)}" for name in metrics if name not in PER_CLASS] if len(dataset.test_x) else []
    return (*(f"{split}_{kind}" for split in splits for kind in kinds), *named)


def _format(name: str) -> str:
    return "{}" if name in ("epoch", "step") else "{:.4f}"


def _cell(name: str, value: Any) -> str:
    return "-" if value is None else _format(name).format(value)
