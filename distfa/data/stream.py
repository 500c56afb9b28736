"""Samples that are made when they are read, for example a torch ``Dataset`` with random augmentation.

Every epoch draws its inputs again (a sample's target must not be drawn), and every engine draws the same: before a
sample is made, the random states of torch, numpy and Python are set from (seed, epoch, sample), and restored
afterwards. Row numbers go on over the epochs: row k N + i is the i-th sample of epoch k, in the order of the loader's
own sampler if it has one, else in the order drawn from the seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.data.arrays import to_numpy
from distfa.data.build import Split, build
from distfa.data.checks import check_tokens
from distfa.data.conform import aligned
from distfa.data.dataset import Array, Dataset
from distfa.data.reading import Looked, Seen
from distfa.errors import DataError

_RANDOM = threading.Lock()  # random states belong to the process: layers that are threads take turns


class Rows:
    """Behaves like an array of samples, as far as a run needs that.

    Args:
        samples: ``samples[i]`` is (x, y), and ``len`` counts them.
        order: (epochs, N): which sample each row of each epoch is.
        seed: Seed of what is drawn when a sample is made.
        like: One x, flattened; all have its shape and type.
        digest: Digest of the samples of the first epoch.
        seen: What they look like; None for tokens.
    """

    def __init__(
        self, samples: Any, order: NDArray[np.int64], *, seed: int, like: Array, digest: str, seen: Seen | None
    ) -> None:
        self.samples, self.digest, self.seen = samples, digest, seen
        self.few: Array = like[None]  # some of them, so that what they look like can be told without making them again
        self._order, self._seed, self._like = order, seed, like
        self.dtype = like.dtype
        self.shape = (order.shape[1], *like.shape)
        self.nbytes = order.nbytes + self.shape[0] * like.nbytes  # at most, if the samples are in memory

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        epochs, places = np.divmod(rows, self._order.shape[1])
        found = np.empty((len(rows), *self._like.shape), self.dtype)
        for number, (epoch, place) in enumerate(zip(epochs, places, strict=True)):
            index = int(self._order[epoch, place])
            with drawing_from(self._seed, int(epoch), index):
                made = to_parts(self.samples[index], index, tokens=self._like.dtype == np.int64)[0]
            if made.shape != self._like.shape:
                raise DataError(
                    f"sample {index} has shape {made.shape} in epoch {epoch + 1}, and the first had "
                    f"{self._like.shape}; all samples must have the same shape"
                )
            found[number] = made
        return found


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
            f"sample {index} of the data set has x and y of {' and '.join(type(part).__name__ for part in sample)} "
            f"({exc}); its transform must end in a tensor or an array of numbers, as torchvision's ToTensor does"
        ) from exc
    wide = np.float64 if y.dtype == np.float64 else np.float32
    y = y.astype(wide if y.dtype.kind == "f" else np.int64)
    if tokens and x.dtype.kind in "iu":
        return x.astype(np.int64).reshape(-1), y
    x = x if x.dtype in (np.uint8, np.float32, np.float64) else x.astype(np.float32)
    return x.reshape(-1), y


@contextmanager
def drawing_from(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Let random numbers come from a stream that belongs to this sample; afterwards the random states are restored."""
    import torch  # here, so that listing the names of data sets does not load torch

    word = hashlib.blake2b(f"{seed},{epoch},{index}".encode(), digest_size=8).digest()
    drawn = int.from_bytes(word, "little") >> 1
    with _RANDOM:
        before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        try:
            random.seed(drawn)
            np.random.seed(drawn % 2**32)
            torch.manual_seed(drawn)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.random.set_rng_state(before[2])


def streamed(
    samples: Any,
    test: Split | None,
    orders: Iterable[Sequence[int] | NDArray[np.int64]],
    *,
    seed: int,
    name: str = "arrays",
    floats: bool = False,
    tokens: int | None = None,
) -> Dataset:
    """A Dataset whose training inputs are made when they are read.

    All samples are made once beforehand, so that their targets are known and a sample that does not fit is found now.

    Args:
        samples: ``samples[i]`` is (x, y), and ``len`` counts them.
        test: (x, y); None for no test data.
        orders: One per epoch: which samples, in which order; all have the same length.
        seed: Seed of what is drawn when samples are made.
        name: What messages and reports call it.
        floats: Whether targets may be quantities or shares: floats, and whole numbers in several columns.
        tokens: Size of the vocabulary, if integers of x stand for symbols.

    Raises:
        DataError: There are no samples, they are not pairs, have several shapes, or break a rule of ``validate``.
    """
    epochs = [np.fromiter(map(int, epoch), np.int64) for epoch in orders]
    if not epochs or not all(len(epoch) == len(epochs[0]) > 0 for epoch in epochs):
        raise DataError(
            f"{name}: epochs of {sorted({len(epoch) for epoch in epochs})} samples; every epoch must have the same "
            "number of samples, and at least one"
        )
    order = np.stack(epochs)
    found, shape = hashlib.blake2b(order.tobytes(), digest_size=16), ()
    targets: dict[int, Array] = {}
    like, looked = np.empty(0), Looked()
    for index in map(int, np.unique(order)):
        with drawing_from(seed, 0, index):
            sample = samples[index]
        x, y = to_parts(sample, index, tokens=tokens is not None)
        if not targets:
            like, shape = x, np.shape(sample[0])
        if x.shape != like.shape or not np.isfinite(x).all():
            wrong = f"shape {x.shape}, and the first {like.shape}" if x.shape != like.shape else "NaN or infinity in it"
            raise DataError(f"{name}: training sample {index} has {wrong}; fix it, or leave it out")
        if tokens is not None and x.dtype.kind == "i":
            check_tokens(x[None], tokens, f"{name}: training sample {index}")
        found.update(x.tobytes() + y.tobytes())
        looked.add(x)
        targets[index] = _quantities(y) if floats else y
    y = np.stack([targets[index] for index in order.ravel().tolist()])
    sample_shape = tuple(map(int, shape)) or (1,)
    test = None if test is None else (aligned(test[0], sample_shape), test[1])
    first = like.reshape(1, *sample_shape)  # stands in for all inputs; has their shape and type
    made = build(name=name, train=(first, y[:1]), test=test, outputs=_outputs(y, test), scale=(0.0, 1.0), tokens=tokens)
    seen = None if tokens is not None else looked.seen()
    rows: Any = Rows(samples, order, seed=seed, like=like, digest=found.hexdigest(), seen=seen)
    rows.few = looked.few()
    return dataclasses.replace(made, train_x=rows, train_y=_as_built(y, made))


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
        raise DataError(f"a label is {y.min()}; labels are 0, 1, 2, ...: renumber them from 0")
    return int(max(y.max(), -1 if test is None or not len(test[1]) else np.max(test[1]))) + 1


def _as_built(y: Array, made: Dataset) -> Array:
    return np.ascontiguousarray(y.astype(made.train_y.dtype))
