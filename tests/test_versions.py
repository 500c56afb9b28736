"""What distfa asks of other packages: ranges in pyproject.toml, and one tested version of each in constraints.txt."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distfa.settings.launch import LaunchConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
BUILD = PROJECT["build-system"]["requires"]
ALWAYS = [*map(Requirement, PROJECT["project"]["dependencies"])]
IN_CI = [*ALWAYS, *map(Requirement, [*BUILD, *EXTRAS["dev"], *EXTRAS["docs"]])]
SOURCE = r"(?:-e |\s\.(?:\s|$)|~/distfa-source)"  # what is installed is this checkout
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci/run", *(ROOT / "docs").rglob("*.md")]
PAGES += [path for folder in ("deploy", "scripts", "examples") for path in (ROOT / folder).rglob("*") if path.is_file()]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def named(name, among):
    return [found for found in among if canonicalize_name(found.name) == canonicalize_name(name)]


def test_nobodys_torch_is_exchanged_for_another_of_the_range():
    (torch,) = named("torch", ALWAYS)
    assert all(torch.specifier.contains(version) for version in ("2.9.0", "2.9.1", "2.13.0+cpu", "2.14.1", "2.20"))
    assert not any(torch.specifier.contains(version) for version in ("2.8.0", "3.0"))


def test_the_metadata_gives_ranges_and_no_versions():
    for found in [*IN_CI, *(Requirement(line) for lines in EXTRAS.values() for line in lines)]:
        assert not {one.operator for one in found.specifier} & {"==", "==="}, found


def test_ray_has_an_upper_bound_where_its_private_modules_were_tried():
    (ray,) = named("ray", ALWAYS)
    (pin,) = named("ray", pins())
    (tried,) = pin.specifier
    (below,) = [one.version for one in ray.specifier if one.operator == "<"]
    assert [*map(int, below.split("."))] == [
        *map(int, tried.version.split(".")[:1]),
        int(tried.version.split(".")[1]) + 1,
    ]
    assert all(str(found.specifier) == str(ray.specifier) for found in named("ray", IN_CI))


@pytest.mark.parametrize("pin", pins(), ids=str)
def test_every_pin_lies_in_the_range_of_every_requirement(pin):
    (one,) = pin.specifier
    assert one.operator == "=="
    asked = named(pin.name, IN_CI)
    assert asked, f"{pin.name} is pinned, and pyproject.toml does not name it"
    for found in asked:
        assert found.specifier.contains(one.version.removesuffix(".*")), f"{pin} is not in {found}"


def test_everything_that_ci_installs_is_pinned_once():
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names))
    assert set(names) == {canonicalize_name(found.name) for found in IN_CI}


def test_every_command_that_installs_this_checkout_takes_the_tested_versions():
    typed = [
        (page, line.strip())
        for page in PAGES
        for line in page.read_text(encoding="utf-8", errors="ignore").splitlines()
        if "pip install" in line and re.search(SOURCE, line.partition("pip install")[2].partition("`")[0])
    ]
    assert {"README.md", "CONTRIBUTING.md", "run", "index.md", "Dockerfile", "local.yaml"} <= {p.name for p, _ in typed}
    for page, line in typed:
        assert re.search(r" -c (?:~/distfa-source/)?constraints\.txt ", line), f"{page}: {line}"


def test_ci_holds_to_them_also_where_pip_builds_and_where_tests_install():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(
        r'^export PIP_CONSTRAINT="\$PWD/constraints.txt" PIP_BUILD_CONSTRAINT="\$PWD/constraints.txt"$', script, re.M
    )
    assert [Requirement(line).name for line in BUILD] == ["setuptools"]  # a build environment brings no torch


def test_the_clusters_ray_is_one_that_distfa_takes_and_the_tested_one_by_default():
    (ray,) = named("ray", pins())
    assert str(ray.specifier) == f"=={LaunchConfig().ray}"
    (range_,) = named("ray", ALWAYS)
    assert range_.specifier.contains(LaunchConfig().ray)
