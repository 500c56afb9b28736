"""docs/architecture.md names files, classes and functions that exist, and its picture shows the imports as they are."""

import ast
import re
from xml.etree import ElementTree

import pytest
from rooms import PICTURE, ROOT, arrows, describe

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"^    .*$", "", PAGE, flags=re.MULTILINE))))
SOURCES = [path for folder in ("distfa", "tests", "scripts", "protos") for path in (ROOT / folder).rglob("*.*")]
FILES = [name for name in NAMED if re.fullmatch(r"[\w/]+\.(py|proto|md)", name) and "NAME" not in name]
CODE = [name for name in NAMED if re.fullmatch(r"[A-Z][A-Za-z]+(\.\w+)?", name) and re.search("[a-z]", name)]
STEPS = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| (`.*?`) \|", PAGE, flags=re.MULTILINE)
FOREIGN = {"Ray", "ReLU", "Linear", "Conv", "PReLU", "BatchNorm", "Sequential", "MultiheadAttention", "Embedding"}


def bound(node):
    """The names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def defined(path):
    """Every name that a Python file defines at its top, and ``Class.member``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{name}" for member in node.body for name in bound(member))
        yield from bound(node)


EVERYWHERE = {name for path in SOURCES if path.suffix == ".py" for name in defined(path)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_named_exists(name):
    assert any(path.as_posix().endswith(f"/{name}") for path in [*SOURCES, *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", [name for name in CODE if name not in FOREIGN])
def test_a_class_or_method_that_is_named_exists(name):
    assert name in EVERYWHERE


@pytest.mark.parametrize(("file", "names"), STEPS)
def test_the_way_of_a_batch_names_what_is_in_each_file(file, names):
    there = set(defined(ROOT / "distfa" / file))
    assert [name for name in re.findall("`(.*?)`", names) if name not in there] == []


def test_the_way_of_a_batch_is_told():
    assert len(STEPS) > 10


def test_the_picture_shows_the_imports_as_they_are():
    told = ElementTree.parse(PICTURE).find(".//{http://purl.org/dc/elements/1.1/}description")
    assert told is not None, "python scripts/rooms.py draws it"
    assert told.text == describe(arrows()), "the imports have changed; python scripts/rooms.py draws them anew"
