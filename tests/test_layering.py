"""Imports point down the list of rooms, and foreign libraries stay where they belong."""

import ast
import re
import subprocess
import sys
from collections import Counter

from rooms import PACKAGE, RANK, crossings, files, imports, nodes, room_of_file

APART = [{"bench", "plan"}]  # on one line, and yet neither imports the other
CODE_LINES = 2500  # of a room, those inside it not counted
HOMES = {
    "ray": {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "runtime/ray").glob("*.py")},
    "grpc": {"transport/grpc_transport.py"},
    "grpc_health": {"transport/grpc_transport.py"},
    "google": {"transport/serde.py"},
    "cryptography": {"transport/tls.py", "privacy/stream.py"},
    "dp_accounting": {"privacy/accountant.py"},
    "typer": {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "cli").glob("*.py")},
    "rich": {
        *(path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "cli").glob("*.py")),
        *("text/lines.py", "run/progress.py"),
    },
    "pydantic": {
        *(f"settings/{name}.py" for name in ("schema", "loading", "explaining")),
        *("run/disk/run_dir.py", "run/disk/checkpoint.py", "run/notes.py"),
        "plan/cluster.py",
    },
    "fsspec": {"run/disk/checkpoint.py", "data/shards/files.py"},
    "pyarrow": {"data/shards/formats.py"},
    "PIL": {"data/shards/formats.py"},
    "simpy": {"plan/stages.py", "plan/simulate.py"},
    "jinja2": {"launch/render.py", "pages/page.py"},
    "plotly": {"pages/page.py"},
    "matplotlib": {"lab/questions/drawing.py"},
}


def test_imports_point_down_the_list_of_rooms():
    assert [(file, dotted) for file, mine, dotted, other in crossings() if RANK[other] > RANK[mine]] == []


def test_rooms_that_are_apart_do_not_import_each_other():
    pairs = [(file, dotted, {mine, other}) for file, mine, dotted, other in crossings()]
    assert [(file, dotted) for file, dotted, pair in pairs if pair in APART] == []


def test_every_module_is_in_a_room():
    loose = {name for _, name in files() if room_of_file(name) is None}
    assert loose == {"__init__.py", "__main__.py"}


def test_foreign_libraries_are_imported_in_their_one_home():
    wrong = [
        (file, dotted)
        for file, dotted in imports()
        if (home := HOMES.get(dotted.split(".")[0])) is not None and file not in home
    ]
    assert wrong == []


def test_what_is_private_in_ray_is_used_in_one_file():
    private = {name for path, name in files() if re.search(r"\bray\._[a-z]", path.read_text())}
    assert private == {"runtime/ray/private.py"}


def test_core_loads_neither_ray_nor_grpc_nor_protobuf():
    code = (
        "import sys, distfa.core.serial, distfa.core.rules; "
        "print([m for m in ('ray', 'grpc', 'google.protobuf', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_assert_guards_the_package():
    assert [name for name, node in nodes() if isinstance(node, ast.Assert)] == []


def code_lines(path):
    """Lines with code: no comments, docstrings, blank lines."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in docs for n, line in lines)


def test_a_room_can_be_read_in_a_day():
    lines = Counter()
    for path, name in files():
        lines[room_of_file(name)] += code_lines(path)
    assert {name: n for name, n in lines.items() if n > CODE_LINES} == {}
