from __future__ import annotations

import importlib
import inspect
import platform
import sysconfig

import numpy as np
import pytest

from distfa.data import load
from distfa.data.stdlib import CHARACTERS, LENGTH, MODULES, UNKNOWN, VOCABULARY, decode, encode
from distfa.errors import DataError


@pytest.fixture(scope="module")
def stdlib():
    return load("stdlib")


def source(module: str) -> str:
    """The text of a module as Python itself finds it."""
    return inspect.getsource(importlib.import_module(module.removesuffix("/__init__").replace("/", ".")))


def test_the_form_is_the_documented_one(stdlib):
    assert (stdlib.tokens, stdlib.outputs, stdlib.shape, stdlib.positions) == (97, 97, (LENGTH,), LENGTH)
    assert (stdlib.train_x.dtype, stdlib.train_y.dtype) == (np.uint8, np.int64)
    assert (stdlib.mean.tolist(), stdlib.std.tolist(), stdlib.classification) == ([0.0], [1.0], True)
    assert 1_000_000 < stdlib.train_x.size < 2_000_000
    assert 100_000 < stdlib.test_x.size < 400_000


def test_windows_are_the_text_and_targets_the_text_one_character_on(stdlib):
    assert sorted(MODULES) == list(MODULES)
    split = {"train": [m for n, m in enumerate(MODULES, 1) if n % 10], "test": MODULES[9::10]}
    for name, modules in split.items():
        x, y, row = getattr(stdlib, f"{name}_x"), getattr(stdlib, f"{name}_y").astype(np.uint8), 0
        for module in modules:
            text = "".join(c if c in CHARACTERS else "\N{REPLACEMENT CHARACTER}" for c in source(module))
            windows = (len(text) - 1) // LENGTH
            assert decode(x[row : row + windows].reshape(-1)) == text[: windows * LENGTH], module
            assert decode(y[row : row + windows].reshape(-1)) == text[1 : windows * LENGTH + 1], module
            row += windows
        assert row == len(x) == len(y)


def test_every_character_has_a_token():
    assert (len(CHARACTERS), len(set(CHARACTERS)), UNKNOWN, VOCABULARY) == (96, 96, 96, 97)
    assert encode(CHARACTERS).tolist() == list(range(96))
    assert decode(encode("a\tb\r\0\x7fé\N{SNAKE}\ud800c")) == "a b\N{REPLACEMENT CHARACTER}" + "\ufffd" * 5 + "c"
    assert encode("").shape == (0,)


def test_the_text_is_the_same_each_time_and_says_whose_it_is(stdlib):
    again = load("stdlib")
    np.testing.assert_array_equal(again.train_x, stdlib.train_x)
    assert again.source == stdlib.source
    assert f"Python {platform.python_version()}, sha256 " in stdlib.source


def test_more_classes_can_be_asked_for_but_not_fewer():
    assert load("stdlib", classes=128).outputs == 128
    with pytest.raises(DataError, match=r"labels must be 0 \.\. 9 for 10 classes"):
        load("stdlib", classes=10)


def test_a_python_without_source_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"argparse\.py cannot be read .*standard library as source files"):
        load("stdlib")
