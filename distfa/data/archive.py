"""Reader of .npz archives with the keys train_x, train_y, test_x, test_y; pickled content is refused."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distfa.data.build import Split, build_dataset
from distfa.data.dataset import Array, Dataset
from distfa.data.request import Request
from distfa.errors import DataError

KEYS = ("train_x", "train_y", "test_x", "test_y")
EXPECTED = f"one .npz file with the keys {', '.join(KEYS)}"

# What numpy and zipfile raise for damaged archives; encrypted or unknown compression is a RuntimeError.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, MemoryError)


def load_archive(request: Request) -> Dataset:
    """Samples of any shape from an archive; mean and std are one number each, over the train split.

    Args:
        request: Its directory is an .npz file, or a directory with exactly one.

    Raises:
        DataError: There is no archive, or several, or one that cannot be used.
    """
    path = request.require_directory(EXPECTED)
    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise DataError(
                f"{path}: expected {EXPECTED}, found {names}; give --data-dir the path of the .npz file itself"
            )
        path = found[0]
    train, test = read_npz(path)
    return build_dataset(name=request.name, train=train, test=test, outputs=request.classes)


def find_npz(request: Request, directory: Path) -> Path | None:
    """The archive of a named image data set: ``directory`` itself if it is a file, or NAME.npz in it, or None."""
    if directory.is_file():
        return directory
    path = directory / f"{request.name}.npz"
    return path if path.is_file() else None


def read_npz(path: Path) -> tuple[Split, Split]:
    """The train and test splits as they are in the file.

    Raises:
        DataError: It is not an archive, or truncated, corrupt or pickled, or one of the keys is missing.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds a single bare array; save {EXPECTED} with numpy.savez")
        with content as archive:
            arrays = _read_keys(path, archive)
    except _DAMAGE as exc:
        if "allow_pickle" in str(exc):
            raise DataError(
                f"{path}: holds pickled objects (or is not an .npz file at all), and distfa unpickles nothing; "
                "save plain numeric arrays with numpy.savez"
            ) from exc
        raise DataError(f"{path}: truncated or corrupt .npz file ({exc}); write or download it again") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc}); check the path and its permissions") from exc
    return (arrays["train_x"], arrays["train_y"]), (arrays["test_x"], arrays["test_y"])


def _read_keys(path: Path, archive: Mapping[str, Array]) -> dict[str, Array]:
    missing = [key for key in KEYS if key not in archive]
    if missing:
        raise DataError(
            f"{path}: has no {', '.join(missing)} (it holds {', '.join(archive) or 'nothing'}); "
            f"save {EXPECTED} with numpy.savez"
        )
    return {key: archive[key] for key in KEYS}
