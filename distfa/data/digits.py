"""scikit-learn's 8x8 handwritten digits: they are inside that package, so a first run needs no file and no network.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set).
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distfa.data.build import build_dataset
from distfa.data.dataset import Dataset
from distfa.data.request import Request
from distfa.errors import DataError

_TEST_EVERY = 5


def load_digits(request: Request) -> Dataset:
    """1437 training and 360 test images, 64 raw pixel values 0 .. 16 as uint8, 10 classes.

    The split has no seed: rows are sorted by class, in file order within a class, and every fifth goes to the test
    split. So each class has its share of both splits, and both stay in file order.

    Raises:
        DataError: scikit-learn is not installed.
    """
    rows = _rows(request.name)
    x, y = rows[:, :-1], rows[:, -1].astype(np.int64)
    is_test = np.zeros(len(y), bool)
    is_test[np.argsort(y, kind="stable")[::_TEST_EVERY]] = True
    x = x.astype(np.uint8)
    return build_dataset(
        name=request.name,
        train=(x[~is_test], y[~is_test]),
        test=(x[is_test], y[is_test]),
        outputs=10 if request.classes is None else request.classes,
        shape=(1, 8, 8),
    )


def _rows(name: str) -> NDArray[np.float64]:
    """Pixels and label of every image, (1797, 65), from scikit-learn's own file: importing it takes seconds.

    Raises:
        DataError: The file is missing.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"data set {name!r} comes with scikit-learn, which is not installed; pip install scikit-learn")
    file = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt", encoding="ascii") as text:
            return np.loadtxt(text, delimiter=",")
    except (OSError, ValueError) as exc:
        raise DataError(f"data set {name!r} is scikit-learn's file {file}, which cannot be read: {exc}") from exc
