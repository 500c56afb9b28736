"""MNIST and Fashion-MNIST, from the official IDX files or from an .npz archive.

Sources: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998;
H. Xiao et al., Fashion-MNIST, 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distfa.data.archive import find_npz, read_npz
from distfa.data.build import Split
from distfa.data.dataset import Array, Dataset
from distfa.data.idx import read_idx
from distfa.data.images import ImageSpec, build_images
from distfa.data.request import Request
from distfa.errors import DataError

SPECS = {
    "mnist": ImageSpec(shape=(1, 28, 28), classes=10, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": ImageSpec(shape=(1, 28, 28), classes=10, mean=(0.2860,), std=(0.3530,)),
}
_TORCHVISION_FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}


def load_mnist(request: Request) -> Dataset:
    """28x28 grey images as (N, 784) uint8, scaled by the published mean and std.

    Looks for NAME.npz, then for the four IDX files, in the directory, in NAME below it, and in the folder
    torchvision makes. The directory may also be the path of an .npz file.

    Raises:
        DataError: Files are missing or damaged, or do not belong to such a data set.
    """
    directory = request.require_directory(
        f"{request.name}.npz or the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each plain or .gz)"
    )
    archive = find_npz(request, directory)
    if archive is not None:
        train, test = read_npz(archive)
    else:
        train, test = _read_split(request, directory, "train"), _read_split(request, directory, "t10k")
    return build_images(request, SPECS[request.name], train, test)


def _read_split(request: Request, directory: Path, prefix: str) -> Split:
    images = _read_axes(_find(request, directory, f"{prefix}-images", 3), 3)
    labels = _read_axes(_find(request, directory, f"{prefix}-labels", 1), 1)
    return images, labels


def _read_axes(path: Path, axes: int) -> Array:
    values = read_idx(path)
    if values.ndim != axes or values.dtype != np.uint8:
        raise DataError(
            f"{path}: wrong magic, it holds {values.dtype} of {values.ndim} axes where uint8 of {axes} "
            f"(0x0000080{axes}) is expected; check that images and labels are not swapped"
        )
    return values


def _find(request: Request, directory: Path, stem: str, axes: int) -> Path:
    folders = [directory, directory / request.name, directory / _TORCHVISION_FOLDERS[request.name]]
    names = [f"{stem}{mark}idx{axes}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"data set {request.name!r}: no {names[0]} found; looked for {', '.join(names)} in "
        f"{', '.join(str(folder) for folder in folders)}, and for {request.name}.npz in {directory}; "
        "give --data-dir the directory that holds them"
    )
