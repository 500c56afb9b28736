from __future__ import annotations

import numpy as np
import pytest

from distfa.data import load
from distfa.data.archive import read_npz
from distfa.errors import DataError

ARRAYS = {
    "train_x": np.arange(24, dtype=np.uint8).reshape(4, 2, 3),
    "train_y": np.array([0, 1, 5, 1]),
    "test_x": np.zeros((1, 2, 3), np.uint8),
    "test_y": np.array([0]),
}


def write(path, save=np.savez, **changes):
    save(path, **{key: value for key, value in {**ARRAYS, **changes}.items() if value is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_any_shape_is_read(tmp_path, save):
    path = write(tmp_path / "my.npz", save)
    for directory in (path, tmp_path):
        found = load("npz", directory=directory)
        np.testing.assert_array_equal(found.train_x, ARRAYS["train_x"].reshape(4, 6))
        assert (found.shape, found.outputs, found.train_x.dtype) == ((2, 3), 6, np.uint8)
        assert found.mean == pytest.approx([11.5])
        assert found.std == pytest.approx([ARRAYS["train_x"].std()])


def test_float_targets_are_read(tmp_path):
    path = write(tmp_path / "my.npz", train_y=np.zeros((4, 2), np.float16), test_y=np.zeros((1, 2)))
    found = load("npz", directory=path)
    assert (found.outputs, found.classification, found.train_y.dtype) == (2, False, np.float32)


def test_the_number_of_classes_can_be_given(tmp_path):
    path = write(tmp_path / "my.npz")
    assert load("npz", directory=path, classes=8).outputs == 8
    with pytest.raises(DataError, match=r"label 5 at row 2; labels must be 0 \.\. 4"):
        load("npz", directory=path, classes=5)


def test_pickled_objects_are_refused(tmp_path):
    path = write(tmp_path / "my.npz", train_x=np.array([[1], [None], [2], [3]], dtype=object))
    with pytest.raises(DataError, match=r"my\.npz: holds pickled objects"):
        load("npz", directory=path)


def test_missing_keys_are_named_with_those_present(tmp_path):
    path = write(tmp_path / "my.npz", test_x=None, test_y=None)
    with pytest.raises(DataError, match=r"has no test_x, test_y \(it holds train_x, train_y\)"):
        load("npz", directory=path)


def test_one_archive_must_be_meant(tmp_path):
    with pytest.raises(DataError, match="found none; give --data-dir the path"):
        load("npz", directory=tmp_path)
    write(tmp_path / "a.npz")
    write(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"found a\.npz, b\.npz"):
        load("npz", directory=tmp_path)
    with pytest.raises(DataError, match="no directory was given"):
        load("npz")


def test_a_bare_array_or_text_is_no_archive(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"bare\.npy: holds a single bare array"):
        load("npz", directory=tmp_path / "bare.npy")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz: "):
        load("npz", directory=tmp_path)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.npz: truncated or corrupt"):
        load("npz", directory=tmp_path / "empty.npz")


def refusal(path):
    """What reading raised; a change that hits no checked byte is read."""
    try:
        return "damaged.npz: read" if read_npz(path) else ""
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_only_raise_data_errors(tmp_path, save):
    rng = np.random.default_rng(2)
    whole = write(tmp_path / "whole.npz", save).read_bytes()
    path = tmp_path / "damaged.npz"
    for number in range(250):
        content = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        assert "damaged.npz: " in refusal(path)
