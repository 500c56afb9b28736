from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from data_files import IDX_CODES, idx_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from distfa.data.mnist import read_idx
from distfa.errors import DataError

ARRAYS = st.sampled_from(sorted(IDX_CODES)).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
)


@settings(max_examples=60, deadline=None)
@given(ARRAYS, st.booleans())
def test_what_is_written_is_read_back(values, packed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values"
        path.write_bytes(gzip.compress(idx_bytes(values)) if packed else idx_bytes(values))
        found = read_idx(path)
    assert found.dtype == values.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)


def test_the_header_is_read_as_published(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(bytes.fromhex("00000801 00000003 05 00 04"))
    assert read_idx(path).tolist() == [5, 0, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic is 0x, not"),
        (b"PK\3\4 zip", "magic is 0x504b0304"),
        (bytes.fromhex("00000701 00000000"), "magic is 0x00000701"),
        (bytes.fromhex("00000803 0000"), "truncated, 6 bytes where the header alone is 16"),
        (bytes.fromhex("00000801 00000003 0500"), r"10 bytes where the header \(shape \(3,\), uint8\).* 11"),
        (bytes.fromhex("00000801 00000001 0500"), "10 bytes where .* 9"),
        (bytes.fromhex("00000802 ffffffff ffffffff"), "12 bytes where"),
        (struct.pack(">HBB70I", 0, 8, 70, *[1] * 70) + b"x", "numpy cannot hold"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "damaged-file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged-file: .*{message}"):
        read_idx(path)


@pytest.mark.parametrize("cut", [3, 12, 30, -1])
def test_a_cut_gzip_file_is_named(tmp_path, cut):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(200, dtype=np.int32)))[:cut])
    with pytest.raises(DataError, match=r"cut\.gz: truncated or corrupt gzip"):
        read_idx(path)


def test_a_changed_gzip_file_is_named(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(np.arange(200, dtype=np.int32))))
    content[-6] ^= 1  # inside the checksum
    path = tmp_path / "changed.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"changed\.gz: truncated or corrupt gzip"):
        read_idx(path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)
