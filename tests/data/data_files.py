"""Writers of tiny files in the official MNIST format."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

IDX_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(values: np.ndarray) -> bytes:
    """``values`` in the IDX format, written from its definition."""
    header = bytes([0, 0, IDX_CODES[values.dtype.name], values.ndim])
    sizes = b"".join(struct.pack(">I", size) for size in values.shape)
    return header + sizes + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray, *, mark: str = "-", packed: bool = False):
    """The four files; the test split is the reversed training split."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, x, y in (("train", images, labels), ("t10k", images[::-1], labels[::-1])):
        for stem, axes, values in ((f"{prefix}-images", 3, x), (f"{prefix}-labels", 1, y)):
            content = idx_bytes(values)
            path = folder / f"{stem}{mark}idx{axes}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
