"""What a run must know of shards before it reads them: found in one pass over all, and kept beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from distfa.data.build import to_array, to_inputs, to_labels
from distfa.data.checks import check_finite
from distfa.data.dataset import Array
from distfa.data.shards.files import ShardFiles
from distfa.data.shards.formats import INPUTS, LABELS
from distfa.errors import DataError
from distfa.text.words import human_bytes, pluralize

log = logging.getLogger(__name__)

INDEX = "distfa-index.json"
_VERSION = 1
_MOST_CLASSES = 1 << 20
_NUMBERS_AT_ONCE = 1 << 20
SPLITS = ("train", "test")


@dataclass(kw_only=True)
class SplitIndex:
    """The shards of one split.

    Attributes:
        files: Their names, in order.
        sizes: Bytes of each.
        rows: Samples in each.
        counts: How often each label occurs.
        digest: Of all inputs and labels.
    """

    files: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    digest: str = ""


@dataclass(kw_only=True)
class Index:
    """All shards of a data set.

    Attributes:
        label: What labels are called in the shards.
        train: Those to train on.
        test: Those to evaluate on; there may be none.
        shape: Shape of one sample.
        dtype: Of inputs, once flattened.
        mean: Of all training inputs.
        std: As ``mean``.
        largest: The largest absolute value of all training inputs.
        version: Of this form.
    """

    label: str | None
    train: SplitIndex
    test: SplitIndex
    shape: list[int]
    dtype: str
    mean: float
    std: float
    largest: float
    version: int = _VERSION


class _Moments:
    """Adds up mean and spread, shard by shard; what was added is never needed again."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.largest = 0, 0.0, 0.0, 0.0

    def add(self, x: Array) -> None:
        flat = x.reshape(-1)
        for at in range(0, flat.size, _NUMBERS_AT_ONCE):
            part = flat[at : at + _NUMBERS_AT_ONCE].astype(np.float64)
            mean, count = float(part.mean()), self.count + part.size
            apart = mean - self.mean
            self.squares += float(np.square(part - mean).sum()) + apart**2 * self.count * part.size / count
            self.mean += apart * part.size / count
            self.count = count
            self.largest = max(self.largest, float(np.abs(part).max()))

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / max(self.count, 1))


def index_of(files: ShardFiles) -> Index:
    """The index of shards: the one beside them if it is theirs, else made now by reading every shard once.

    Raises:
        DataError: There are no shards to train on, or one cannot be used.
    """
    found = {split: files.find(split) for split in SPLITS}
    if not found["train"]:
        raise DataError(
            f"{files.place!r} has no shards to train on: files whose path there begins with 'train' and ends in .npz, "
            ".parquet or .tar, such as train/0001.npz or train-0001.tar"
        )
    kept = _read_index(files)
    if kept is None or kept.label != files.label or any(_listed(getattr(kept, s)) != found[s] for s in SPLITS):
        kept = _make_index(files, found)
        _write_index(files, kept)
    return kept


def _listed(split: SplitIndex) -> list[tuple[str, int]]:
    return list(zip(split.files, split.sizes, strict=True))


def _read_index(files: ShardFiles) -> Index | None:
    """The index beside the shards; None if there is none, or none of this version."""
    try:
        raw = json.loads(files.read_text(INDEX) or b"")
        found = Index(**raw | {split: SplitIndex(**raw[split]) for split in SPLITS})
        return found if found.version == _VERSION else None
    except (ValueError, TypeError, KeyError):  # none, cut short, or of another version
        return None


def _write_index(files: ShardFiles, index: Index) -> None:
    try:
        files.write_text(INDEX, json.dumps(asdict(index)).encode())
    except Exception as exc:  # each kind of place has its own errors, and the run needs no index on disk
        log.warning("cannot keep %s beside the shards (%s), so the next run reads them all again", INDEX, exc)


def _make_index(files: ShardFiles, found: dict[str, list[tuple[str, int]]]) -> Index:
    number, size = sum(map(len, found.values())), sum(size for split in found.values() for _, size in split)
    log.warning("reading %s (%s) once, for %s", pluralize(number, "shard"), human_bytes(size), INDEX)
    moments, shape, dtype = _Moments(), None, None
    splits = {split: SplitIndex() for split in SPLITS}
    for split, made in splits.items():
        digest, counts = hashlib.blake2b(digest_size=16), np.zeros(0, np.int64)
        for name, size in found[split]:
            raw, y = files.read(name, INPUTS), _labels(files, name)
            x = to_inputs(raw, None, f"shard {name}: inputs")
            shape, dtype = shape or raw.shape[1:] or (1,), dtype or x.dtype
            _require_alike(name, x, y, raw.shape[1:] or (1,), (shape, dtype))
            check_finite(x, f"shard {name}: inputs")
            if split == "train":
                moments.add(x)
            digest.update(x.data)
            digest.update(y.data)
            counts = _added(counts, np.bincount(y))
            made.files.append(name)
            made.sizes.append(size)
            made.rows.append(len(x))
        made.counts, made.digest = counts.tolist(), digest.hexdigest()
    return Index(
        label=files.label,
        train=splits["train"],
        test=splits["test"],
        shape=list(shape or ()),
        dtype=str(dtype),
        mean=moments.mean,
        std=moments.std,
        largest=moments.largest,
    )


def _labels(files: ShardFiles, name: str) -> NDArray[np.int64]:
    where = f"shard {name}: labels"
    y = to_array(files.read(name, LABELS), where)
    if y.ndim != 1:
        raise DataError(f"{where} have shape {y.shape}; shards need one label, an integer, for every sample")
    y = to_labels(y, where)
    if y.size and not 0 <= y.min() <= y.max() < _MOST_CLASSES:
        raise DataError(f"{where} are {y.min()} to {y.max()}; number classes from 0, at most {_MOST_CLASSES:,} of them")
    return y


def _require_alike(name: str, x: Array, y: Array, shape: tuple[int, ...], like: tuple[object, object]) -> None:
    if not len(x) or len(x) != len(y):
        raise DataError(f"shard {name} has {len(x)} inputs and {len(y)} labels; a shard needs samples, each with both")
    if (shape, x.dtype) != like:
        raise DataError(
            f"shard {name} has samples of shape {shape}, {x.dtype}, but those of the first shard have shape "
            f"{like[0]}, {like[1]}; all must be alike"
        )


def _added(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
