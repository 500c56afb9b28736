"""Sizes in words: one unit system, in what distfa prints and in what its pages say."""

import re
from pathlib import Path

import pytest

from distfa.text.words import human_bytes

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs/bench").glob("*.json")])
SOURCES = sorted((ROOT / "distfa").rglob("*.py"))
OTHER = re.compile(r"\b([KMGT]iB|KB)\b")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1536, "1.5 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB")],
)
def test_a_kb_is_a_thousand_bytes(count, said):
    assert human_bytes(count) == said


def test_the_largest_unit_goes_on():
    assert human_bytes(5e12) == "5,000.0 GB"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_have_no_other_unit(path):
    assert not OTHER.findall(path.read_text(encoding="utf-8"))


def test_what_is_printed_has_no_other_unit():
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        told = [line.replace("/ KB", "") for line in lines if '"' in line and '"""' not in line]
        said = [line for line in told if OTHER.search(line)]
        assert not said, path


def test_a_mib_is_named_only_where_a_setting_is():
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"/ ?2 ?\*\* ?[123]0\b", line) or "gib" in line or "mib" in line, f"{path}: {line}"
