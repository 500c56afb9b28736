"""Samples that are made when they are read, for example a torch ``Dataset`` with random augmentation.

Every epoch draws its inputs again (a sample's target must not be drawn), and every engine draws the same: before a
sample is made, random states are set from (seed, epoch, sample), and restored afterwards (``drawing``). Which sample is
in which row is the loader's own order, or is drawn from the seed (``given_order``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.data.arrays import to_numpy
from distfa.data.build import Split, build_dataset
from distfa.data.checks import check_tokens
from distfa.data.conform import align
from distfa.data.dataset import Array, Dataset
from distfa.data.drawing import drawing_from, generators_in
from distfa.data.given_order import GivenOrder
from distfa.data.reading import InputSummarizer, InputSummary
from distfa.errors import DataError

log = logging.getLogger(__name__)

KEPT = 8
"""Rows that are made once, so that whoever reads them again sees the same: those of the audit."""


class Rows:
    """Behaves like an array of samples, as far as a run needs that.

    Args:
        samples: ``samples[key]`` is (x, y).
        keys: The key of every sample.
        order: Which sample every row is.
        seed: Seed of what is drawn when a sample is made.
        like: One x, flattened; all have its shape and type.
        digest: Digest of the samples of the first epoch.
        seen: What they look like; None for tokens.
    """

    def __init__(
        self,
        samples: Any,
        keys: Sequence[Any],
        order: GivenOrder,
        *,
        seed: int,
        like: Array,
        digest: str,
        seen: InputSummary | None,
    ) -> None:
        self.samples, self.digest, self.seen = samples, digest, seen
        self.few: Array = like[None]  # some of them, so that what they look like can be told without making them again
        self._keys, self._order, self._seed = keys, order, seed
        self.dtype = like.dtype
        self.shape = (order.rows, *like.shape)
        self.nbytes = order.rows * like.nbytes  # at most, if the samples are in memory
        self._own: list[Any] | None = None  # generators of the user's own
        self._kept: Array = np.empty((0, *like.shape), like.dtype)

    def keep(self, made: Mapping[int, Array]) -> None:
        """Keep the first rows; what was made of their samples is used once, since a repeated one is drawn anew."""
        once = dict(made)
        places = enumerate(self._order.epochs[0][:KEPT].tolist())
        first = [once.pop(sample) if sample in once else self._make(0, place) for place, sample in places]
        self._kept = np.stack(first).astype(self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_own": None}

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number, (row, epoch, place) in enumerate(zip(rows, *self._order.places(rows), strict=True)):
            found[number] = self._kept[row] if row < len(self._kept) else self._make(int(epoch), int(place))
        return found

    def _make(self, epoch: int, place: int) -> Array:
        if self._own is None:
            self._own = generators_in(self.samples)
        key = self._keys[self._order.epochs[epoch][place]]
        with drawing_from(self._seed, epoch, name_draw(self._order, key, epoch, place), self._own):
            made = to_parts(self.samples[key], key, tokens=self.dtype == np.int64)[0]
        if made.shape != self.shape[1:]:
            raise DataError(
                f"sample {key} has shape {made.shape} in epoch {epoch + 1}, but the first had {self.shape[1:]}; "
                "all samples must have the same shape"
            )
        return made


def name_draw(order: GivenOrder, key: Any, epoch: int, place: int) -> object:
    """The name of a sample's draw: its key; where a sampler gives a sample again, also how often before."""
    if not order.repeats(epoch):
        return key
    samples = order.epochs[epoch]
    before = int((samples[:place] == samples[place]).sum())
    return f"{key}#{before}" if before else key


def to_parts(sample: Any, index: int, *, tokens: bool = False, targets: bool = True) -> tuple[Array, Array]:
    """(x flattened, y) of one sample, in types that a run can read.

    Args:
        sample: A pair (x, y); without targets also x alone.
        index: Which sample it is.
        tokens: Whether integers of x stand for symbols; if not, they are quantities and become floats.
        targets: Whether y is wanted; if not, it is 0.

    Raises:
        DataError: It is not a pair (x, y), or holds no numbers.
    """
    if not targets:
        sample = (sample[0] if isinstance(sample, tuple | list) else sample), 0
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise DataError(f"sample {index} of the data set is a {type(sample).__name__}; it must be a pair (x, y)")
    try:
        x, y = (to_numpy(part, "it") for part in sample)
    except DataError as exc:
        raise DataError(
            f"sample {index} of the data set has x and y of type "
            f"{' and '.join(type(part).__name__ for part in sample)} ({exc}); its transform must return a tensor "
            "or an array of numbers, as torchvision's ToTensor does"
        ) from exc
    wide = np.float64 if y.dtype == np.float64 else np.float32
    y = y.astype(wide if y.dtype.kind == "f" else np.int64)
    if tokens and x.dtype.kind in "iu":
        return x.astype(np.int64).reshape(-1), y
    x = x if x.dtype in (np.uint8, np.float32, np.float64) else x.astype(np.float32)
    return x.reshape(-1), y


def stream_samples(
    samples: Any,
    keys: Sequence[Any],
    test: Split | None,
    order: GivenOrder,
    *,
    seed: int,
    name: str = "arrays",
    floats: bool = False,
    tokens: int | None = None,
) -> Dataset:
    """A Dataset whose training inputs are made when they are read.

    All samples are made once beforehand, so that their targets are known and a sample that does not fit is found now.

    Args:
        samples: ``samples[key]`` is (x, y).
        keys: The key of every sample that ``order`` has.
        test: (x, y); None for no test data.
        order: Which sample, by its place in ``keys``, every row is.
        seed: Seed of what is drawn when samples are made.
        name: What messages and reports call it.
        floats: Whether targets may be quantities or shares: floats, and whole numbers in several columns.
        tokens: Size of the vocabulary, if integers of x stand for symbols.

    Raises:
        DataError: Samples are not pairs, have several shapes, or break a rule of ``validate``.
    """
    found, looked, own = hashlib.blake2b(digest_size=16), InputSummarizer(), generators_in(samples)
    targets: list[Array] = []
    first, made_before = set(order.epochs[0][:KEPT].tolist()), dict[int, Array]()
    shape: tuple[int, ...] = ()
    for number, key in enumerate(keys):
        with drawing_from(seed, 0, key, own):
            sample = samples[key]
        x, y = to_parts(sample, key, tokens=tokens is not None)
        if not number:
            like, shape = x, np.shape(sample[0])
        if x.shape != like.shape or not np.isfinite(x).all():
            other = f"shape {x.shape}, but the first has {like.shape}"
            wrong = other if x.shape != like.shape else "NaN or infinite values"
            raise DataError(f"{name}: training sample {key} has {wrong}; fix it, or remove it")
        if tokens is not None and x.dtype.kind == "i":
            check_tokens(x[None], tokens, f"{name}: training sample {key}")
        found.update(x.tobytes() + y.tobytes())
        looked.add(x)
        if number in first:
            made_before[number] = x
        targets.append(_quantities(y) if floats else y)
    y = np.stack(targets)
    sample_shape = tuple(map(int, shape)) or (1,)
    test = None if test is None else (align(test[0], sample_shape), test[1])
    stands_in = like.reshape(1, *sample_shape), y[:1]  # for all samples; has their shape and type
    made = build_dataset(
        name=name, train=stands_in, test=test, outputs=_outputs(y, test), scale=(0.0, 1.0), tokens=tokens
    )
    rows: Any = Rows(
        samples,
        keys,
        order,
        seed=seed,
        like=like,
        digest=found.hexdigest(),
        seen=None if tokens is not None else looked.summary(),
    )
    rows.few = looked.few()
    rows.keep(made_before)
    y = np.ascontiguousarray(y.astype(made.train_y.dtype))
    return dataclasses.replace(made, train_x=rows, train_y=y, order=order)


def _quantities(y: Array) -> Array:
    """The target of one sample, (columns,) floats; a whole number alone stays a label."""
    if y.dtype.kind == "f":
        return np.atleast_1d(y)
    return y.astype(np.float32) if y.ndim else y


def _outputs(y: Array, test: Split | None) -> int | None:
    """The largest label plus 1; None if the shape of the targets says it."""
    if y.dtype.kind == "f":
        return None
    if y.min() < 0:
        raise DataError(f"a label is {y.min()}, but labels are 0, 1, 2, ...: renumber them from 0")
    return int(max(y.max(), -1 if test is None or not len(test[1]) else np.max(test[1]))) + 1
