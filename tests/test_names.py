"""A public name is defined in one module; the few that are in several are listed here, each with its reason."""

import ast
from collections import defaultdict

from rooms import files

SHARED = {
    "measure": "every benchmark has one: it measures, and returns an Outcome",
    "verdict": "every question of distfa experiment has one: its verdict from its rows",
    "run": "the command 'distfa launch' runs a spec by default, and its function has the name of that subcommand",
}


def shared_names() -> dict[str, list[str]]:
    """Public classes and functions at the top of two or more modules, with these modules."""
    modules = defaultdict(set)
    for path, file in files():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                modules[node.name].add(file)
    return {name: sorted(where) for name, where in modules.items() if len(where) > 1}


def test_a_public_name_is_defined_once_unless_there_is_a_reason():
    new = {name: where for name, where in shared_names().items() if name not in SHARED}
    assert not new, f"{new}: give each its own name, or add it to SHARED with the reason"


def test_every_exception_is_still_one():
    assert SHARED.keys() <= shared_names().keys()
    assert len(SHARED) <= 12
