"""Which code travels with a user's modules: hers, and never that of an installed package, wherever it is installed."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from distfa.runtime.ray.user_code import send_code


def module_from(name, file, monkeypatch):
    module = ModuleType(name)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, name, module)
    return type("Net", (nn.Linear,), {"__module__": name})(2, 2)


@pytest.mark.parametrize(
    ("file", "travels"),
    [
        ("/home/me/project/nets.py", True),
        ("/opt/base/lib/python3.11/site-packages/nets/__init__.py", False),
        ("/usr/lib/python3/dist-packages/nets.py", False),
    ],
)
def test_a_file_travels_unless_some_environment_has_it_installed(file, travels, monkeypatch):
    """torch itself, in the environment that a --system-site-packages one builds on, was once taken for the user's."""
    from ray import cloudpickle

    part = module_from("nets_of_a_test", file, monkeypatch)
    with send_code([part, nn.ReLU()]):
        by_value = cloudpickle.list_registry_pickle_by_value()
        assert ("nets_of_a_test" in by_value) == travels
        assert torch.__name__ not in by_value
    assert "nets_of_a_test" not in cloudpickle.list_registry_pickle_by_value()
