"""Imports point down the list of rooms, and foreign libraries stay where they belong."""

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "distfa"
ROOMS = [  # lowest first; a room imports from its own line and the lines above it; rooms inside a room have their own
    {"text"},
    {"errors", "files", "version", "v1"},
    {"models"},
    {"core.base"},
    {"core.modules"},
    {"core.rules"},
    {"core.schedule"},
    {"core.books"},
    {"core"},
    {"codecs", "data"},
    {"transport"},
    {"runtime"},
    {"costs"},
    {"runtime.ray"},
    {"settings"},
    {"intake"},
    {"run.disk"},
    {"run"},
    {"pages"},
    {"report"},
    {"measuring"},
    {"bench", "plan"},
    {"lab"},
    {"launch"},
    {"api"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}
APART = [{"bench", "plan"}]  # on one line, and yet neither imports the other
CODE_LINES = 2500  # of a room, those inside it not counted
HOMES = {
    "ray": {path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime/ray").glob("*.py")},
    "grpc": {"transport/grpc_transport.py"},
    "grpc_health": {"transport/grpc_transport.py"},
    "google": {"transport/serde.py"},
    "cryptography": {"transport/tls.py"},
    "typer": {path.relative_to(ROOT).as_posix() for path in (ROOT / "cli").glob("*.py")},
    "rich": {
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "cli").glob("*.py")),
        *("text/lines.py", "run/progress.py"),
    },
    "pydantic": {
        *(f"settings/{name}.py" for name in ("schema", "loading", "explaining")),
        *("run/disk/run_dir.py", "run/disk/checkpoint.py", "run/notes.py"),
        "plan/cluster.py",
    },
    "fsspec": {"run/disk/checkpoint.py"},
    "simpy": {"plan/stages.py", "plan/simulate.py"},
    "jinja2": {"launch/render.py", "pages/page.py"},
    "plotly": {"pages/page.py"},
    "matplotlib": {"lab/questions/drawing.py"},
}


def files():
    """(path, its name in the package) of every module, generated code left out."""
    named = ((path, path.relative_to(ROOT).as_posix()) for path in sorted(ROOT.rglob("*.py")))
    return [(path, name) for path, name in named if not name.startswith("v1/")]


@functools.cache
def nodes():
    """(file, node) of every node of every module's syntax tree."""
    return [(name, node) for path, name in files() for node in ast.walk(ast.parse(path.read_text()))]


def imports():
    """(file, dotted name) of every import in the package."""
    for name, node in nodes():
        if isinstance(node, ast.Import):
            yield from ((name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def room(dotted):
    """The innermost room of a module, by its dotted name without ``distfa.``; None for the package's own face."""
    parts = dotted.split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in RANK), None)


def crossings():
    """(file, its room, dotted name, that one's room) of every import of distfa's own."""
    for file, dotted in imports():
        if dotted.startswith("distfa."):
            mine, other = room(file.removesuffix(".py").replace("/", ".")), room(dotted.removeprefix("distfa."))
            if mine is not None and other is not None:
                yield file, mine, dotted, other


def test_imports_point_down_the_list_of_rooms():
    assert [(file, dotted) for file, mine, dotted, other in crossings() if RANK[other] > RANK[mine]] == []


def test_rooms_that_are_apart_do_not_import_each_other():
    pairs = [(file, dotted, {mine, other}) for file, mine, dotted, other in crossings()]
    assert [(file, dotted) for file, dotted, pair in pairs if pair in APART] == []


def test_every_module_is_in_a_room():
    loose = {name for _, name in files() if room(name.removesuffix(".py").replace("/", ".")) is None}
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
        lines[room(name.removesuffix(".py").replace("/", "."))] += code_lines(path)
    assert {name: n for name, n in lines.items() if n > CODE_LINES} == {}
