from __future__ import annotations

import gzip

import numpy as np
import pytest
from data_files import idx_bytes, write_mnist

from distfa.data import load
from distfa.data.build import measure_mean_and_std
from distfa.errors import DataError


def save(path, images, labels, **changes):
    arrays = {"train_x": images, "train_y": labels, "test_x": images[:2], "test_y": labels[:2]}
    np.savez(path, **{**arrays, **changes})


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", ""),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "fashion_mnist"),
    ],
)
def test_idx_files_are_read_back_exactly(tmp_path, images, labels, name, folder, mark, packed):
    write_mnist(tmp_path / folder, images, labels, mark=mark, packed=packed)
    found = load(name, directory=tmp_path)
    np.testing.assert_array_equal(found.train_x, images.reshape(7, 784))
    np.testing.assert_array_equal(found.train_y, labels)
    np.testing.assert_array_equal(found.test_x, images[::-1].reshape(7, 784))
    np.testing.assert_array_equal(found.test_y, labels[::-1])
    assert (found.name, found.shape, found.outputs) == (name, (1, 28, 28), 10)
    assert found.train_x.dtype == np.uint8


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.286, 0.353)])
def test_scale_is_the_published_one_in_raw_units(tmp_path, images, labels, name, mean, std):
    write_mnist(tmp_path, images, labels)
    found = load(name, directory=str(tmp_path))
    assert found.mean == pytest.approx([mean * 255])
    assert found.std == pytest.approx([std * 255])


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 28, 28), (28, 28, 1)])
def test_npz_is_read_in_any_usual_layout(tmp_path, images, labels, shape):
    save(
        tmp_path / "mnist.npz",
        images.reshape(7, *shape),
        labels.reshape(7, 1),
        test_x=images.reshape(7, *shape)[:2],
    )
    for directory in (tmp_path, tmp_path / "mnist.npz"):
        found = load("mnist", directory=directory)
        np.testing.assert_array_equal(found.train_x, images.reshape(7, 784))
        np.testing.assert_array_equal(found.train_y, labels)


def test_float_pixels_up_to_1_get_a_scale_in_their_own_unit(tmp_path, images, labels):
    x = (images / 255).astype(np.float32)
    save(tmp_path / "mnist.npz", x, labels)
    found = load("mnist", directory=tmp_path)
    assert found.train_x.dtype == np.float32
    assert found.mean == pytest.approx([0.1307])
    assert found.std == pytest.approx([0.3081])


def test_float_pixels_up_to_255_keep_the_raw_unit(tmp_path, images, labels):
    save(tmp_path / "mnist.npz", images.astype(np.float64), labels)
    assert load("mnist", directory=tmp_path).mean == pytest.approx([0.1307 * 255])


def test_wide_integer_pixels_become_bytes(tmp_path, images, labels):
    save(tmp_path / "mnist.npz", images.astype(np.int64), labels)
    found = load("mnist", directory=tmp_path)
    assert found.train_x.dtype == np.uint8
    np.testing.assert_array_equal(found.train_x, images.reshape(7, 784))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.full((7, 784), 256)}, "pixel 256 at row 0, column 0"),
        ({"train_x": np.full((7, 784), -0.5)}, "pixel -0.5 at row 0"),
        ({"train_x": np.full((7, 784), np.nan)}, "train_x holds NaN"),
        ({"train_x": np.zeros((7, 14, 56), np.uint8)}, r"shape \(14, 56\); expected 784 features"),
        ({"test_x": np.zeros((2, 3, 32, 32), np.uint8)}, r"test_x has samples of shape \(3, 32, 32\)"),
        ({"test_x": np.zeros((2, 784))}, "train_x is uint8 but test_x is float64"),
        ({"train_y": np.full(7, 10)}, r"label 10 at row 0; labels must be 0 \.\. 9"),
        ({"train_y": np.zeros((7, 10))}, r"train_y has shape \(7, 10\); image labels must be"),
        ({"train_y": np.zeros(6, np.int64)}, "train_x has 7 samples but train_y has 6"),
    ],
)
def test_arrays_that_are_no_mnist_are_refused(tmp_path, images, labels, changes, message):
    save(tmp_path / "mnist.npz", images, labels, **changes)
    with pytest.raises(DataError, match=message):
        load("mnist", directory=tmp_path)


def test_more_classes_can_be_asked_for(tmp_path, images):
    write_mnist(tmp_path, images, np.arange(40, 47, dtype=np.uint8))
    assert load("mnist", directory=tmp_path, classes=47).outputs == 47


def test_a_missing_directory_says_what_belongs_there(tmp_path):
    with pytest.raises(DataError, match=r"no directory was given; give --data-dir .* train-images-idx3-ubyte"):
        load("mnist")
    with pytest.raises(DataError, match=r"nowhere' does not exist; .*--data-dir"):
        load("mnist", directory=tmp_path / "nowhere")


def test_missing_files_are_listed(tmp_path, images, labels):
    with pytest.raises(DataError, match=r"train-images\.idx3-ubyte\.gz in .*MNIST/raw, and for mnist\.npz"):
        load("mnist", directory=tmp_path)
    write_mnist(tmp_path, images, labels)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte found"):
        load("mnist", directory=tmp_path)


def test_swapped_images_and_labels_are_seen(tmp_path, images, labels):
    write_mnist(tmp_path, images, labels)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match="train-images-idx3-ubyte: wrong magic, it holds uint8 of 1 axes"):
        load("mnist", directory=tmp_path)


def test_a_truncated_file_is_named(tmp_path, images, labels):
    write_mnist(tmp_path, images, labels, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: truncated"):
        load("mnist", directory=tmp_path)
    path.write_bytes(gzip.compress(idx_bytes(images)[:-1]))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: 5503 bytes where .* 5504"):
        load("mnist", directory=tmp_path)


def test_the_real_mnist_has_the_published_scale(shared_data):
    if not (shared_data / "mnist.npz").is_file():
        pytest.skip(f"needs {shared_data / 'mnist.npz'}")
    mnist = load("mnist", directory=shared_data)
    assert (mnist.train_x.shape, mnist.test_x.shape) == ((60000, 784), (10000, 784))
    assert mnist.train_y[:6].tolist() == [5, 0, 4, 1, 9, 2]
    # The constants are published with four decimals.
    assert measure_mean_and_std(mnist.train_x)[0] / 255 == pytest.approx(mnist.mean[0] / 255, abs=5e-5)
    assert measure_mean_and_std(mnist.train_x)[1] / 255 == pytest.approx(mnist.std[0] / 255, abs=5e-5)
