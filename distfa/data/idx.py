"""Reader of IDX, the format of the MNIST files, plain or gzipped.

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

from distfa.data.dataset import Array
from distfa.errors import DataError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


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
