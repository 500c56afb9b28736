"""MNIST and Fashion-MNIST, from the official IDX files or from an .npz archive.

Sources: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998;
H. Xiao et al., Fashion-MNIST, 2017.

IDX, plain or gzipped, is

    2 bytes   0 0
    1 byte    element type: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    1 byte    number of axes n
    4n bytes  their sizes, big-endian uint32
    rest      the elements, big-endian, last axis fastest

Source: http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from distfa.data.archive import find_npz, read_npz
from distfa.data.build import Split
from distfa.data.dataset import Array, Dataset
from distfa.data.images import ImageSpec, build_images
from distfa.data.request import Request
from distfa.errors import DataError

SPECS = {
    "mnist": ImageSpec(shape=(1, 28, 28), classes=10, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": ImageSpec(shape=(1, 28, 28), classes=10, mean=(0.2860,), std=(0.3530,)),
}
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
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


def read_idx(path: Path) -> Array:
    """The array in a file, in native byte order; gzip is recognised by content, not by name.

    Raises:
        DataError: The file cannot be read, is truncated or corrupt, has another magic, or holds more
            or fewer bytes than its header says.
    """
    content = _read_bytes(path)
    magic = content[:4]
    if len(content) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise DataError(
            f"{path}: magic is 0x{magic.hex()}, not that of an IDX file (0x00000803 for images, "
            "0x00000801 for labels); download the file again"
        )
    dtype, axes = np.dtype(DTYPES[magic[2]]), magic[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path}: truncated, {len(content)} bytes where the header alone is {start}; download it again")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path}: {len(content)} bytes where the header (shape {shape}, {dtype.name}) asks for "
            f"{expected}; the file is truncated or damaged, download it again"
        )
    try:
        values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    except ValueError as exc:
        raise DataError(f"{path}: numpy cannot hold an array of shape {shape} ({exc}); download it again") from exc
    return values.astype(dtype.newbyteorder("="), copy=False)


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"{path}: truncated or corrupt gzip file ({exc}); download it again") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc}); check the path and its permissions") from exc
