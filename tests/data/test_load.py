from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from data_files import write_mnist

from distfa.data import NAMES, load
from distfa.errors import DataError


def test_the_names_are_those_documented():
    assert NAMES == ("digits", "stdlib", "mnist", "fashion_mnist", "cifar10", "cifar100", "npz", "hub", "shards")


@pytest.mark.parametrize(
    ("name", "near"),
    [("minst", "mnist"), ("MNIST", "mnist"), ("fashion-mnist", "fashion_mnist"), ("cifar-100", "cifar100")],
)
def test_an_unknown_name_names_the_nearest(name, near):
    with pytest.raises(
        DataError, match=f"data set '{name}' is not one of digits, stdlib, mnist, .*did you mean '{near}'"
    ):
        load(name)


def test_limit_keeps_the_first_samples_and_the_scale_of_all(tmp_path, images, labels):
    whole, first = load("digits"), load("digits", limit=100)
    np.testing.assert_array_equal(first.train_x, whole.train_x[:100])
    np.testing.assert_array_equal(first.test_y, whole.test_y[:100])
    assert first.mean == whole.mean
    assert not np.shares_memory(first.train_x, whole.train_x)
    write_mnist(tmp_path, images, labels)
    assert len(load("mnist", directory=tmp_path, limit=1000).train_x) == 7


@pytest.mark.parametrize(("option", "value"), [("limit", 0), ("limit", -3), ("classes", 0)])
def test_counts_below_one_are_refused(option, value):
    with pytest.raises(DataError, match=f"{option} is {value}; it must be at least 1"):
        load("digits", **{option: value})


def test_a_hub_path_belongs_to_hub_alone():
    with pytest.raises(DataError, match="name the data set 'hub'"):
        load("mnist", hub="ylecun/mnist")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("digits", "stdlib", "hub")])
def test_every_data_set_of_files_asks_for_its_directory(name):
    with pytest.raises(DataError, match=f"data set '{name}' is read from files, .*--data-dir"):
        load(name)


def test_importing_the_package_loads_no_optional_or_heavy_package():
    code = "import sys, distfa.data; print({'torch', 'sklearn', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
