"""CIFAR-10 and CIFAR-100, from the official python or binary files or from an .npz archive.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distfa.data.archive import find_npz, read_npz
from distfa.data.build import Split
from distfa.data.dataset import Array, Dataset
from distfa.data.images import ImageSpec, build_images
from distfa.data.pickled import read_pickle
from distfa.data.request import Request
from distfa.errors import DataError

SPECS = {
    "cifar10": ImageSpec(shape=(3, 32, 32), classes=10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": ImageSpec(shape=(3, 32, 32), classes=100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where one data set keeps its files.

    Attributes:
        folders: The official folder of the python version, then of the binary version.
        train: Names of the training files, without .bin.
        test: Name of the test file, without .bin.
        label_key: Key of the labels in a pickled batch.
        label_bytes: Bytes before the 3072 pixels of a binary record; the last one is the label.
    """

    folders: tuple[str, str]
    train: tuple[str, ...]
    test: str
    label_key: str
    label_bytes: int


_FILES = {
    "cifar10": _Files(
        folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        label_key="labels",
        label_bytes=1,
    ),
    "cifar100": _Files(
        folders=("cifar-100-python", "cifar-100-binary"),
        train=("train",),
        test="test",
        label_key="fine_labels",
        label_bytes=2,
    ),
}


def load_cifar(request: Request) -> Dataset:
    """32x32 colour images as (N, 3072) uint8 in (C, H, W) order, scaled per channel by the published numbers.

    Looks for NAME.npz, then the python version, then the binary version, each in the directory and in its
    official folder below. CIFAR-100 has its 100 fine labels. The directory may also be the path of an .npz.

    Raises:
        DataError: Files are missing or damaged, or do not belong to such a data set.
    """
    files = _FILES[request.name]
    directory = request.require_directory(
        f"{request.name}.npz or the extracted official files ({', '.join(files.train)} and {files.test}, "
        f"or the same with .bin), which may be in {files.folders[0]} or {files.folders[1]}"
    )
    archive = find_npz(request, directory)
    train, test = read_npz(archive) if archive is not None else _read_official(request, directory, files)
    return build_images(request, SPECS[request.name], train, test)


def _read_official(request: Request, directory: Path, files: _Files) -> tuple[Split, Split]:
    versions: tuple[tuple[str, str, Callable[[Path, _Files], Split]], ...] = (
        (files.folders[0], "", _read_batch),
        (files.folders[1], ".bin", _read_binary),
    )
    for official, suffix, read in versions:
        for folder in (directory, directory / official):
            paths = [folder / f"{name}{suffix}" for name in (*files.train, files.test)]
            if any(path.is_file() for path in paths):
                return _read_all(request, paths, files, read)
    names = ", ".join((*files.train, files.test))
    raise DataError(
        f"data set {request.name!r}: no files found; looked for {request.name}.npz, "
        f"{names} (and the same with .bin) in {directory}, {directory / files.folders[0]} "
        f"and {directory / files.folders[1]}; extract the official .tar.gz there, "
        "or give --data-dir the directory that holds them"
    )


def _read_all(
    request: Request, paths: list[Path], files: _Files, read: Callable[[Path, _Files], Split]
) -> tuple[Split, Split]:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"data set {request.name!r}: {', '.join(missing)} missing from {paths[0].parent}; extract the archive again"
        )
    batches = [read(path, files) for path in paths]
    train_x = np.concatenate([x for x, _ in batches[:-1]])
    train_y = np.concatenate([y for _, y in batches[:-1]])
    return (train_x, train_y), batches[-1]


def _read_batch(path: Path, files: _Files) -> Split:
    content = read_pickle(path)
    missing = [key for key in ("data", files.label_key) if key not in content]
    if missing:
        raise DataError(f"{path}: batch has no {', '.join(missing)} (it holds {', '.join(content) or 'nothing'})")
    x = content["data"]
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != 3072:
        found = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"{path}: data is {found}, where uint8 of shape (n, 3072) is expected")
    return x, _labels(path, content[files.label_key], len(x))


def _labels(path: Path, value: object, count: int) -> Array:
    try:
        labels = np.asarray(value)
    except ValueError as exc:
        raise DataError(f"{path}: labels are not a list of integers ({exc})") from exc
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}, where {count} integers are expected"
        )
    return labels


def _read_binary(path: Path, files: _Files) -> Split:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc}); check the path and its permissions") from exc
    record = files.label_bytes + 3072
    if len(content) == 0 or len(content) % record:
        raise DataError(
            f"{path}: {len(content)} bytes is not a whole number of {record}-byte records; "
            "the file is truncated or another format, download it again"
        )
    rows = content.reshape(-1, record)
    return rows[:, files.label_bytes :], rows[:, files.label_bytes - 1]
