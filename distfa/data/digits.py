"""scikit-learn's 8x8 handwritten digits: inside the package, so a first run needs no file and no network.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set).
"""

from __future__ import annotations

import importlib

import numpy as np

from distfa.data.build import build
from distfa.data.dataset import Dataset
from distfa.data.request import Request
from distfa.errors import DataError

_TEST_EVERY = 5


def load_digits(request: Request) -> Dataset:
    """1437 training and 360 test images, 64 raw pixel values 0 .. 16 as uint8, 10 classes.

    The split has no seed: sort the rows by class, keeping file order within one, and every fifth goes
    to the test split. So each class has its share of both, and both stay in file order.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        # Imported here: a second of import time, for this data set only.
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as exc:
        raise DataError(
            f"data set {request.name!r} comes with scikit-learn, which is not installed; pip install scikit-learn"
        ) from exc
    x, y = datasets.load_digits(return_X_y=True)
    is_test = np.zeros(len(y), bool)
    is_test[np.argsort(y, kind="stable")[::_TEST_EVERY]] = True
    x = x.astype(np.uint8)
    return build(
        name=request.name,
        train=(x[~is_test], y[~is_test]),
        test=(x[is_test], y[is_test]),
        outputs=10 if request.classes is None else request.classes,
        shape=(1, 8, 8),
    )
