"""The Dockerfile's own steps, done in a clean root where no Docker is; what they make trains, as the user they name."""

import json
import os
from pathlib import Path

import pytest
from clean_root import CleanRoot, instructions, why_not
from needs import needs

ROOT = Path(__file__).parents[2]
pytestmark = [
    needs("clean root", why_not(), else_untested="the Dockerfile's steps"),
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"


def test_its_steps_make_a_root_where_distfa_trains_on_ray():
    """DISTFA_PIP_OPTIONS stands in for the build argument PIP_OPTIONS."""
    steps = instructions((ROOT / "deploy/docker/Dockerfile").read_text())
    with CleanRoot(ROOT, {"PIP_OPTIONS": os.environ.get("DISTFA_PIP_OPTIONS", CPU_WHEELS)}) as image:
        for name, rest in steps:
            image.follow(name, rest)
        assert steps[-1] == ("CMD", '["distfa", "doctor"]')
        said = image.run("distfa doctor")
        print(said)
        assert image.run("id -u").strip() == "1000"
        result = json.loads(image.run("distfa train --epochs 2 --run-dir runs/one --json 2>/dev/null").splitlines()[-1])
        assert result["engine"] == "ray"
        assert len({layer["pid"] for layer in result["facts"]["layers"]}) == 3
        image.run("distfa train --epochs 2 --engine serial --run-dir runs/two")
        image.run("cmp runs/one/weights.safetensors runs/two/weights.safetensors")
