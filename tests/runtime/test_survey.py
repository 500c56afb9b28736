"""What decides a run's bits is found out on every node by the same code, and nodes that differ are refused."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

import distfa
from distfa.errors import ClusterError
from distfa.runtime.survey import require_same_software, surveyor

HERE = Path(distfa.__file__).parent


def elsewhere(folder):
    """The facts of a process that finds ``folder`` first on its path, asked by code that was sent to it."""
    program = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1]))())"
    sent = cloudpickle.dumps(surveyor()).hex()
    done = subprocess.run(
        [sys.executable, "-c", program, sent],
        cwd=folder,
        env={"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return eval(done.stdout)


def test_an_equal_copy_of_distfa_is_the_same_wherever_it_lies(tmp_path):
    shutil.copytree(HERE, tmp_path / "distfa", ignore=shutil.ignore_patterns("__pycache__"))
    theirs = elsewhere(tmp_path)
    assert theirs["path"] == str(tmp_path / "distfa")
    assert {**theirs, "path": str(HERE)} == surveyor()()
    require_same_software(surveyor()(), {"layer 1": ("10.0.0.1", theirs)})


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less", "a name", "empty"])
def test_any_other_copy_is_refused_with_both_paths_and_never_imported(tmp_path, change):
    copy = tmp_path / "distfa"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "core" / "base" / "optim.py"
    if change == "a byte":
        file.write_text(file.read_text() + "\n")
    elif change == "a file more":
        (copy / "core" / "base" / "more.py").touch()
    elif change == "a file less":
        file.unlink()
    elif change == "a name":
        file.rename(copy / "core" / "base" / "optin.py")
    else:
        shutil.rmtree(copy)
        copy.mkdir()
        (copy / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(ClusterError) as refused:
        require_same_software(
            surveyor()(), {"layer 2": ("10.0.0.1", surveyor()()), "layer 3": ("10.0.0.2", elsewhere(tmp_path))}
        )
    said = str(refused.value)
    assert said.startswith(f"layer 3 on node 10.0.0.2 imports distfa from {copy} (code ")
    assert f"this process from {HERE} (code " in said


@pytest.mark.parametrize("what", ["python", "torch", "numpy"])
def test_other_versions_are_refused_by_name(what):
    mine = surveyor()()
    theirs = {**mine, what: "0.1"}
    with pytest.raises(
        ClusterError, match=f"layer 1 on node n runs {what} 0.1, this process {what} {re.escape(mine[what])}"
    ):
        require_same_software(mine, {"layer 1": ("n", theirs)})


def test_a_node_without_distfa_is_refused():
    mine = surveyor()()
    with pytest.raises(ClusterError, match=r"imports distfa from nowhere \(not installed\)"):
        require_same_software(mine, {"layer 1": ("n", {**mine, "distfa": "not installed", "path": ""})})
