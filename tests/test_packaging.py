"""What is built can be installed and run alone: wheel and sdist, without a checkout."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from distfa.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_SOURCE = ("__pycache__", "*.egg-info", "build", "dist", "runs")


def ran(*args, cwd, **env):
    """Output of a command that ends well."""
    done = subprocess.run(
        list(map(str, args)),
        cwd=cwd,
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, **env},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel): the wheel is made from what the sdist holds."""
    place = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, place / "source", ignore=shutil.ignore_patterns(".*", *NOT_SOURCE))
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", cwd=place / "source")
    (sdist,), (wheel,) = (place / "dist").glob("*.tar.gz"), (place / "dist").glob("*.whl")
    return sdist, wheel


def test_the_sdist_has_all_sources_and_the_wheel_all_that_runs(built):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("deploy", "docs", "examples", "protos", "scripts", "tests", "distfa")
    wanted = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")]
    ours = {path.relative_to(ROOT).as_posix() for path in wanted if not _not_source(path)}
    assert ours - sources == set()
    installed = set(zipfile.ZipFile(wheel).namelist())
    package = {path for path in ours if path.startswith("distfa/")}
    assert package - installed == set()
    others = {name for name in installed - package if ".dist-info/" not in name}
    assert others == set()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in installed)


def _not_source(path):
    parts = path.relative_to(ROOT).parts
    return any(part.startswith(".") or part in NOT_SOURCE or part.endswith(".egg-info") for part in parts)


def test_every_package_that_is_imported_is_declared():
    """At a module's head by what is always installed; within a function perhaps by an extra."""
    always = {_name(line) for line in PROJECT["dependencies"]}
    extras = {_name(line) for lines in PROJECT["optional-dependencies"].values() for line in lines}
    sold_by = packages_distributions()
    for path in (ROOT / "distfa").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        head = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            for module in _imported(node):
                if module in sys.stdlib_module_names or module == "distfa":
                    continue
                sellers = {_name(seller) for seller in sold_by.get(module, [module])}
                allowed = always if id(node) in head else always | extras | {"pandas", "ipython"}
                assert sellers & allowed, f"{path}: {module} comes with {sellers}, which pyproject.toml does not name"


def _imported(node):
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {node.module.partition(".")[0]}
    return set()


def _name(requirement):
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def _environment(place, wheel, *, borrowed):
    """The programs of a fresh environment with the wheel and what it needs: from pip's registry, or from here."""
    ran(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "--quiet"]
    alone = ["--no-deps"] if borrowed else []
    ran(*pip, "-c", ROOT / "constraints.txt", *alone, wheel, cwd=place.parent)
    (packages,) = (place / "lib").glob("python*/site-packages")
    if borrowed:  # a line of such a file is a folder to look in, whose own such files do not count
        folders = [folder for folder in sys.path if folder.endswith("site-packages")]
        (packages / "borrowed.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")
    where = ran(place / "bin/python", "-c", "import distfa; print(distfa.__file__)", cwd=place.parent)
    assert Path(where).is_relative_to(packages)
    return place / "bin"


@pytest.fixture(scope="module")
def borrowed(built, tmp_path_factory):
    """The programs of an environment with the wheel, beside the packages of this one: two minutes sooner."""
    return _environment(tmp_path_factory.mktemp("borrowed") / "venv", built[1], borrowed=True)


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """The same with nothing but what the wheel names."""
    return _environment(tmp_path_factory.mktemp("fresh") / "venv", built[1], borrowed=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("others", ["borrowed", pytest.param("fresh", marks=pytest.mark.slow)])
def test_the_wheel_installs_and_trains_in_a_fresh_environment(request, tmp_path, others):
    """Beside borrowed packages without what a checkout shows as well: Ray, and torch's own export."""
    distfa = request.getfixturevalue(others) / "distfa"
    assert ran(distfa, "--version", cwd=tmp_path) == f"distfa {__version__}\n"
    train = ["train", "--epochs", "2", "--engine", "ray" if others == "fresh" else "serial", "--run-dir", "run"]
    assert "test accuracy" in ran(distfa, *train, cwd=tmp_path)
    ran(distfa, "report", "run", cwd=tmp_path)
    assert (tmp_path / "run/report.html").exists()
    if others == "fresh":
        ran(distfa, "export", "run", cwd=tmp_path)
        assert (tmp_path / "run/model.pt2").exists()
    spec = tmp_path / "spec.yaml"
    spec.write_text(ran(distfa, "spec", cwd=tmp_path), encoding="utf-8")
    ran(distfa, "launch", "render", spec, "--on", "slurm", "-o", "files", cwd=tmp_path)
    assert list((tmp_path / "files").rglob("*.sbatch"))


@pytest.mark.timeout(600)
def test_pages_and_launch_files_of_the_wheel_are_those_of_the_checkout(borrowed, tmp_path):
    """Templates, style sheet and script could be missing from a wheel unseen: other tests run beside the sources."""
    run, bench = ROOT / "tests/runs_made_before/serial/whole", ROOT / "docs/bench/tls.json"
    by_wheel, by_checkout = (
        ran(python, "-c", RENDERED, run, bench, cwd=tmp_path, PYTHONPATH=path)
        for python, path in ((borrowed / "python", ""), (sys.executable, str(ROOT)))
    )
    assert json.loads(by_wheel) == json.loads(by_checkout)
    for kind in ("run", "bench", "question"):
        assert all(part in json.loads(by_wheel)[kind] for part in ("prefers-color-scheme", "function draw()", "<main>"))


RENDERED = """
import json, sys
from pathlib import Path
from distfa.bench.page import write_bench_report
from distfa.lab.questions.asking import QUESTIONS, save
from distfa.lab.questions.base import Answer
from distfa.launch.render import render_target
from distfa.report import write_report
from distfa.settings import RunSpec

answer = Answer(rows=[{"a": 1}], columns={"a": "b"}, verdict="<yes>", budget="small", figures=[], raw=[])
pages = {
    "run": write_report(Path(sys.argv[1]), Path("run.html"), shared=True),
    "bench": write_bench_report(Path(sys.argv[2]), Path("bench.html"), shared=True),
    "question": save(QUESTIONS["depth"], answer, "distfa experiment depth", Path("questions")),
}
print(json.dumps({name: page.read_text() for name, page in pages.items()} | render_target(RunSpec(), "all")))
"""
