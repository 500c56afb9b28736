"""Imports point down the layer list, and foreign libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "distfa"
LAYERS = [  # lowest first; a package imports from its own line and the lines above it
    {"errors", "files", "redact", "streams", "version", "v1", "words"},
    {"models"},
    {"core"},
    {"codecs", "data"},
    {"transport"},
    {"runtime"},
    {"experiment"},
    {"bench"},
    {"questions"},
    {"plan"},
    {"launch"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HOMES = {
    "ray": {p.relative_to(ROOT).as_posix() for p in (ROOT / "runtime").glob("*.py")},
    "grpc": {"transport/grpc_transport.py"},
    "grpc_health": {"transport/grpc_transport.py"},
    "google": {"transport/serde.py"},
    "cryptography": {"transport/tls.py"},
    "typer": {p.relative_to(ROOT).as_posix() for p in (ROOT / "cli").glob("*.py")},
    "rich": {
        *(p.relative_to(ROOT).as_posix() for p in (ROOT / "cli").glob("*.py")),
        *("experiment/lines.py", "experiment/progress.py"),
    },
    "pydantic": {
        *(f"experiment/spec/{name}.py" for name in ("schema", "loading", "explaining")),
        "experiment/run_dir.py",
        *("experiment/notes.py", "experiment/checkpoint.py"),
        "plan/cluster.py",
    },
    "fsspec": {"experiment/checkpoint.py"},
    "simpy": {"plan/stages.py", "plan/simulate.py"},
}


def imports():
    """(file, dotted name) of every import in the package, generated code left out."""
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("v1/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def test_imports_point_down_the_layer_list():
    wrong = []
    for file, dotted in imports():
        parts = dotted.split(".")
        mine = file.split("/")[0].removesuffix(".py")
        known = parts[0] == "distfa" and len(parts) > 1 and mine in RANK and parts[1] in RANK
        if known and RANK[parts[1]] > RANK[mine]:
            wrong.append((file, dotted))
    assert wrong == []


def test_foreign_libraries_are_imported_in_their_one_home():
    wrong = [
        (file, dotted)
        for file, dotted in imports()
        if (home := HOMES.get(dotted.split(".")[0])) is not None and file not in home
    ]
    assert wrong == []


def test_core_loads_neither_ray_nor_grpc_nor_protobuf():
    code = (
        "import sys, distfa.core.serial, distfa.core.rules; "
        "print([m for m in ('ray', 'grpc', 'google.protobuf', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_assert_guards_the_package():
    found = [
        str(path)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert found == []
