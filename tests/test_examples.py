"""The examples run as they stand."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
REACHED = {
    "own_conv_net.py": lambda found: found.test_accuracy > 0.9,
    "regression.py": lambda found: found.r2 > 0.8,
    "compare_rules.py": lambda found: "rule dfa" in found.read_text(encoding="utf-8"),
    "augmentation.py": lambda found: found.test_accuracy > 0.7,
}


@pytest.mark.parametrize("name", REACHED)
def test_it_learns(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert REACHED[name](runpy.run_path(str(EXAMPLES / name))["main"]("serial"))


def test_every_example_is_in_the_list():
    listed = (EXAMPLES / "README.md").read_text()
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(REACHED)
    assert all(f"({name})" in listed for name in REACHED)
