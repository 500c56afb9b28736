"""Data in common forms become a Dataset: arrays, tensors, pandas, torch data sets and loaders, Ray Data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils import data as torch_data

from distfa import data
from distfa.data.arrays import is_pair, read_pair, to_numpy
from distfa.data.conform import align, as_labels, conform, find_columns
from distfa.data.dataset import Array
from distfa.data.drawing import drawing_from, generators_in
from distfa.data.given_order import GivenOrder
from distfa.data.labels import is_text, names_of, number_labels
from distfa.data.reading import Reading
from distfa.data.stream import stream_samples, to_parts
from distfa.errors import DataError, SpecError
from distfa.intake.layout import Layout, channels_first
from distfa.intake.loaders import RowSettings, list_keys, take_rows
from distfa.intake.sampling import MOST_ROWS, is_map, samples_one_by_one, tensors_of
from distfa.intake.table import Given, categories, read_table, split_table, stack_columns

log = logging.getLogger(__name__)


def floats_of(loss: str) -> bool | Literal["given"]:
    """Whether a loss takes quantities (``Wish.floats``); one of the user's own gets targets as they are given."""
    return {"cross_entropy": False, "mse": True, "bce": True}.get(loss, "given")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """How to read the data.

    Attributes:
        epochs: Epochs of the run; 0: nothing is trained, and every sample is made once.
        seed: Seed of the run.
        tokens: Size of the vocabulary, if an Embedding reads the samples (``experiment.tokens``).
        target: The column of a table that is learned.
        floats: Whether targets may be quantities or shares: floats, and whole numbers in several columns; ``given``:
            only floats.
        targets: Whether there must be targets.
        layout: The layout of a model that begins with a convolution.
        reading: What an earlier fit fixed.
        normalised: Whether samples are already normalised; None: decided by their values.
        max_steps: Where the run ends; None for no limit.
        batch_size: Samples per step, where no loader says it.
        sampled: What the loader's sampler gave when the run began, in a resumed run.
    """

    epochs: int
    seed: int
    tokens: int | None = None
    target: str | None = None
    floats: bool | Literal["given"] = False
    targets: bool = True
    layout: Layout | None = None
    reading: Reading | None = None
    normalised: bool | None = None
    max_steps: int | None = None
    batch_size: int = 1
    sampled: GivenOrder | None = None

    @property
    def asked(self) -> RowSettings:
        """The settings that decide which rows are read."""
        return RowSettings(
            epochs=self.epochs,
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            seed=self.seed,
            sampled=self.sampled,
        )

    @property
    def learned(self) -> str | None:
        """The column of a table that is learned, if it is known."""
        return self.target or (self.reading.target if self.reading else None)


def dataset_of(train: Any, test: Any, wish: Wish) -> data.Dataset:
    """A Dataset of the data that were given, under the reading that an earlier fit has fixed, or under its own.

    Raises:
        DataError: It is in no form that is known, breaks a rule of ``validate``, or does not fit the reading.
        SpecError: Both train and test bring a test split.
    """
    if isinstance(train, data.Dataset):
        if test is not None:
            raise SpecError("train is a Dataset, which has its own test split; leave test out")
        made = train
    else:
        made = _read(train, test, wish)
    if wish.reading is None:
        made = channels_first(made, wish.layout)
    return conform(
        made,
        wish.reading or made.reading,
        convolves=wish.layout is not None,
        normalised=wish.normalised,
        targets=wish.targets,
    )


def _read(train: Any, test: Any, wish: Wish) -> data.Dataset:
    source = take_rows(train, wish.asked) if wish.epochs else None
    streams = source is not None and source.pair is None
    parts = [] if streams else [train if source is None else source.pair]
    parts += [] if test is None else [test]
    read, names = _number_labels([_read_given(part, wish) for part in parts])
    if source is not None and streams and source.order is not None:
        tests = None if test is None else (read[0].x, _targets(read[0], wish))
        made = stream_samples(
            source.samples,
            source.keys,
            tests,
            source.order,
            seed=wish.seed,
            floats=bool(wish.floats),
            tokens=wish.tokens,
        )
    else:
        first, *others = read
        if not len(first.x) and not wish.epochs:
            raise DataError("there are no samples; pass at least one")
        made = data.from_arrays(
            (first.x, _targets(first, wish)),
            *((_align_inputs(other, first, wish), _targets(other, wish)) for other in others),
            tokens=wish.tokens,
            outputs=_outputs(wish, names),
        )
        made = dataclasses.replace(made, class_names=names, columns=first.columns, target=first.target)
    return made if source is None else dataclasses.replace(made, order=source.order, sampled=source.recorded)


def _outputs(wish: Wish, names: tuple[str, ...]) -> int | None:
    """How many classes there are, or columns of targets; None: the data say it."""
    if names or not wish.targets:
        return max(len(names), 1)
    return None if wish.reading is None else wish.reading.outputs


def _read_given(given: Any, wish: Wish) -> Given:
    """Read what was given into memory."""
    if isinstance(given, data.Dataset):
        return _read_split(given, wish)
    keys = None
    if isinstance(given, torch_data.DataLoader) and samples_one_by_one(given):
        given, keys = given.dataset, list_keys(given, wish.seed)
    if is_map(given):
        x, y = _samples(given, keys, wish)
        return Given(x=to_numpy(x, "x"), y=to_numpy(y, "y") if wish.targets else None)
    if not hasattr(given, "__len__") or isinstance(given, torch_data.DataLoader):
        given = _limit(given, wish)
    table = read_table(given)
    if table is not None:
        return split_table(table, wish.learned, wish.reading, targets=wish.targets, tokens=wish.tokens is not None)
    if is_pair(given) and (wish.targets or isinstance(given, tuple)):
        return _read_pair(given[0], given[1] if wish.targets else None, tokens=wish.tokens is not None)
    if not wish.targets:
        return Given(x=_inputs(given), y=None)
    x, y = read_pair(given, "arrays train")
    return Given(x=x, y=y)


def _read_pair(x: Any, y: Any, *, tokens: bool) -> Given:
    table = read_table(x)
    by_column = table is not None and (isinstance(x, Mapping) or x.to_numpy().dtype.kind == "O")
    named = hasattr(y, "to_numpy") and getattr(y, "name", None) is not None
    return Given(
        x=stack_columns(table, tokens=tokens) if by_column and table is not None else to_numpy(x, "arrays train_x"),
        y=None if y is None else to_numpy(y, "arrays train_y", text=True),
        columns=() if table is None else tuple(table),
        target=str(y.name) if named else None,
        names=categories(y),
    )


def _read_split(dataset: data.Dataset, wish: Wish) -> Given:
    """The test split of a data set, or the only one that it has."""
    splits = (dataset.test_x, dataset.test_y), (dataset.train_x, dataset.train_y)
    x, y = map(np.asarray, splits[0] if len(dataset.test_x) else splits[1])
    if wish.reading is None and ((dataset.mean != 0).any() or (dataset.std != 1).any()):
        x = ((x - dataset.mean) / dataset.std).astype(np.float32)  # arrays that are trained on are used as they are
    text = np.asarray(dataset.class_names)[y] if dataset.class_names and dataset.classification else y
    return Given(x=x.reshape(len(x), *dataset.shape), y=text, columns=dataset.columns, names=dataset.class_names)


def _inputs(given: Any) -> Array:
    """Inputs without targets: an array, a list of samples, or batches, each x or (x, ...)."""
    if isinstance(given, tuple | list) or hasattr(given, "__array__"):
        try:
            return to_numpy(given, "samples")
        except DataError:
            if not isinstance(given, tuple | list):
                raise
    if is_pair(given):
        return to_numpy(given[0], "samples")
    try:
        batches = [batch[0] if isinstance(batch, tuple | list) else batch for batch in given]
    except TypeError as exc:
        raise DataError(
            f"samples are a {type(given).__name__}; pass an array, a tensor, a table, a data set or a loader"
        ) from exc
    if not batches:
        raise DataError("the iterable has no batches; a generator that has already been read is empty")
    return np.concatenate([to_numpy(batch, f"batch {number}") for number, batch in enumerate(batches)])


def _limit(batches: Any, wish: Wish) -> Any:
    """Batches of a loader or an iterator, up to the rows that a run can use; anything else as it is.

    Raises:
        DataError: They never end.
    """
    if not isinstance(batches, Iterable) or hasattr(batches, "__array__") or read_table(batches) is not None:
        return batches
    asked = wish.asked
    steps = None if asked.max_steps is None or not wish.epochs else asked.max_steps

    def sized() -> Iterator[Any]:
        rows = 0
        with drawing_from(wish.seed, -1, "batches"):
            for batch in batches:
                yield batch
                first = batch[0] if isinstance(batch, tuple | list) else batch
                rows += len(first) if np.ndim(first) else 1
                if steps is not None and rows >= steps * asked.batch_size:
                    return
                if rows > MOST_ROWS:
                    raise DataError(
                        f"the data have yielded {rows:,} samples and have not ended; set max_steps if they are "
                        "endless, or make them end"
                    )

    return sized()


def _samples(samples: Any, keys: list[Any] | None, wish: Wish) -> tuple[Any, Any]:
    """(x, y) of the samples of a data set with some keys, or of all."""
    tensors = tensors_of(samples, targets=wish.targets)
    if tensors is None:
        return _make_samples(samples, range(len(samples)) if keys is None else keys, wish)
    return tensors if keys is None else (tensors[0][keys], tensors[1][keys])


def _make_samples(samples: Any, keys: Sequence[Any], wish: Wish) -> tuple[Array, Array]:
    """Samples of a data set, each made once."""
    xs, ys = [], []
    own = generators_in(samples)
    for index in keys:
        with drawing_from(wish.seed, -1, index, own):
            sample = samples[index]
        x, y = to_parts(sample, index, tokens=wish.tokens is not None, targets=wish.targets)
        xs.append(x.reshape(np.shape(sample[0] if isinstance(sample, tuple | list) else sample)))
        ys.append(y)
    if not xs:
        raise DataError("the data set has no samples; leave it out, or pass one that has")
    return np.stack(xs), np.stack(ys)


def _number_labels(parts: list[Given]) -> tuple[list[Given], tuple[str, ...]]:
    """Text labels as numbers, and the names they stand for, in order."""
    text = [part.y for part in parts if part.y is not None and is_text(part.y)]
    if not text:
        return parts, ()
    if len(text) < len(parts):
        raise DataError(
            "the labels of one of train and test are text, those of the other numbers; use one form for both"
        )
    names = names_of(text, next((part.names for part in parts if part.names), ()))
    found = [
        dataclasses.replace(part, y=number_labels(part.y, names, "labels")) for part in parts if part.y is not None
    ]
    return found, names


def _align_inputs(part: Given, first: Given, wish: Wish) -> Array:
    """Inputs of the test data with columns and axes in the order of the training data's."""
    x = part.x
    if first.columns and part.columns and part.columns != first.columns:
        x = x[..., find_columns(part.columns, first.columns)]
    return align(x, first.x.shape[1:], convolves=wish.layout is not None)


def _targets(part: Given, wish: Wish) -> Array:
    """Targets as numbers; zeros stand in for those that are not wanted."""
    y = part.y
    if y is None:
        return np.zeros(len(part.x), np.int64)
    if wish.reading is None:  # a first fit tells quantities from labels by their columns, or because they are floats
        quantities = wish.floats and (y.dtype.kind == "f" or (y.ndim > 1 and wish.floats != "given"))
    else:
        quantities = not wish.reading.labels
    if quantities and not is_text(y):
        y = y if y.dtype.kind == "f" else y.astype(np.float32)
        return y.reshape(-1, 1) if y.ndim == 1 else y
    return y if wish.reading is None or is_text(y) else as_labels(y, wish.reading)
