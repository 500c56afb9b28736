from __future__ import annotations

import sys

import numpy as np
import pytest

from distfa.data import load
from distfa.errors import DataError


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The optional package, with its cache in a temporary folder and its network switched off."""
    package = pytest.importorskip("datasets", reason='needs the Hugging Face package: pip install "distfa[hub]"')
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return package


def write(datasets, folder, splits, features):
    folder.mkdir()
    for split, columns in splits.items():
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(str(folder / f"{split}.parquet"))
    return str(folder)


def hub_load(tmp_path, path, **options):
    return load("hub", hub=path, directory=tmp_path / "cache", **options)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "distfa\[hub\]"'):
        load("hub", hub="mnist")


def test_a_path_must_be_given():
    with pytest.raises(DataError, match="give hub="):
        load("hub")


def test_grey_images_and_class_labels_are_read(datasets, tmp_path):
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=4)}
    columns = {"image": [Image.fromarray(row) for row in x], "label": [2, 0, 1]}
    found = hub_load(tmp_path, write(datasets, tmp_path / "set", {"train": columns, "test": columns}, features))
    np.testing.assert_array_equal(found.train_x, x.reshape(3, 20))
    np.testing.assert_array_equal(found.test_y, [2, 0, 1])
    assert (found.shape, found.outputs, found.train_x.dtype) == ((1, 4, 5), 4, np.uint8)
    assert found.mean[0] == pytest.approx(x.mean())
    assert found.class_names == ("0", "1", "2", "3")


def test_a_folder_of_colour_images_is_flattened_from_channel_first(datasets, tmp_path):
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    for row, name in zip(x, ("cat", "dog"), strict=True):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        Image.fromarray(row).save(tmp_path / "set" / "train" / name / "a.png")
    found = hub_load(tmp_path, str(tmp_path / "set"))
    order = np.argsort(found.train_y)
    np.testing.assert_array_equal(found.train_x[order], x.transpose(0, 3, 1, 2).reshape(2, 60))
    assert (found.shape, found.outputs, found.test_x.shape) == ((3, 4, 5), 2, (0, 60))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_columns_of_arrays_keep_their_dtype(datasets, tmp_path, dtype):
    x = np.arange(12).reshape(2, 2, 3).astype(dtype)
    features = {
        "id": datasets.Value("int64"),
        "pixels": datasets.Array2D((2, 3), dtype),
        "labels": datasets.Value("int32"),
    }
    columns = {"id": [8, 9], "pixels": x, "labels": [0, 5]}
    path = write(datasets, tmp_path / "set", {"train": columns, "validation": columns}, features)
    found = hub_load(tmp_path, path)
    np.testing.assert_array_equal(found.train_x, x.reshape(2, 6))
    assert (found.train_x.dtype, found.shape, found.outputs, len(found.test_y)) == (dtype, (2, 3), 6, 2)
    assert hub_load(tmp_path, path, classes=9, limit=1).train_x.shape == (1, 6)


def test_lists_of_numbers_are_arrays(datasets, tmp_path):
    features = {"x": [datasets.Value("float32")], "label": datasets.Value("int64")}
    path = write(datasets, tmp_path / "set", {"train": {"x": [[1, 2], [3, 4]], "label": [0, 1]}}, features)
    assert hub_load(tmp_path, path).train_x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("columns", "kinds", "message"),
    [
        (
            {"text": ["a"], "label": [0]},
            {"text": "string", "label": "int64"},
            r"text \(Value\).* must hold images",
        ),
        ({"x": [[1.0]], "target": [0]}, {"x": ["float32"], "target": "int64"}, "must be named label or"),
        (
            {"x": [[1.0], [1.0, 2.0]], "label": [0, 1]},
            {"x": ["float32"], "label": "int64"},
            r"shape \(2,\) at row 1",
        ),
        (
            {"x": [[1.0], [2.0]], "label": [0, None]},
            {"x": ["float32"], "label": "int64"},
            "column 'label' is object",
        ),
        ({"x": [[1.0], None], "label": [0, 1]}, {"x": ["float32"], "label": "int64"}, "train column 'x'"),
        (
            {"x": [[1.0], [2.0]], "label": [0.5, 1]},
            {"x": ["float32"], "label": "float32"},
            "label 0.5 at row 0",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named(datasets, tmp_path, columns, kinds, message):
    value = datasets.Value
    features = {name: [value(kind[0])] if isinstance(kind, list) else value(kind) for name, kind in kinds.items()}
    path = write(datasets, tmp_path / "set", {"train": columns}, features)
    with pytest.raises(DataError, match=message):
        hub_load(tmp_path, path)


def test_a_set_without_a_train_split_is_refused(datasets, tmp_path):
    features = {"x": [datasets.Value("float32")], "label": datasets.Value("int64")}
    path = write(datasets, tmp_path / "set", {"test": {"x": [[1.0]], "label": [0]}}, features)
    with pytest.raises(DataError, match="has the splits test; one must be train"):
        hub_load(tmp_path, path)


def test_a_path_that_cannot_be_loaded_gives_one_error(datasets, tmp_path):
    with pytest.raises(DataError, match=r"cannot be loaded \(\w+: .*check the path and the network"):
        hub_load(tmp_path, str(tmp_path / "nowhere"))
