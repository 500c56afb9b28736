"""The examples run as they stand: in one process by default, on Ray among the slow tests."""

import importlib.util
import json
import runpy
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
REACHED = {
    "own_conv_net.py": lambda found: found.test_accuracy > 0.9,
    "regression.py": lambda found: found.r2 > 0.8,
    "compare_rules.py": lambda found: "rule dfa" in found.read_text(encoding="utf-8"),
    "augmentation.py": lambda found: found.test_accuracy > 0.7,
}
TUNE = all(importlib.util.find_spec(name) for name in ("pyarrow", "pandas", "tensorboardX"))
NOTEBOOKS = all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel", "ipywidgets"))
for there, what, how in ((TUNE, "SWEEP WITH RAY TUNE", "tune"), (NOTEBOOKS, "NOTEBOOK", "dev")):
    if not there:
        warnings.warn(f"THE {what} IS NOT TESTED HERE: pip install 'distfa[{how}]'", stacklevel=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def main(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


@pytest.mark.parametrize("name", REACHED)
def test_it_learns(name):
    assert REACHED[name](main(name)("serial"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHED)
def test_it_learns_on_ray(name):
    assert REACHED[name](main(name)())


@pytest.mark.slow
def test_layers_go_to_two_nodes():
    result = main("two_nodes.py")()
    assert result.test_accuracy > 0.9
    assert len({layer["ray_node"] for layer in result.facts["layers"]}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "serial"])
@pytest.mark.skipif(not TUNE, reason="NOT TESTED, Ray Tune is missing: pip install 'distfa[tune]'")
def test_a_sweep_finds_the_better_rate(engine):
    import ray

    try:
        best = main("sweep.py")(engine)
    finally:
        ray.shutdown()
    assert best.config["lr"] == 3e-3
    assert best.metrics["accuracy"] > 0.9


@pytest.mark.parametrize("engine", ["serial", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.skipif(not NOTEBOOKS, reason="NOT TESTED, nbclient, ipykernel or ipywidgets is missing: 'distfa[dev]'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs_and_shows_bar_result_and_history(engine):
    import nbformat
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", nbformat.NO_CONVERT)
    settings = next(cell for cell in notebook.cells if 'ENGINE = "ray"' in cell.source)
    settings.source = settings.source.replace('"ray"', f'"{engine}"', 1)
    # The asynchronous client may miss that a reply is there, and then sleeps until its time is over.
    NotebookClient(notebook, timeout=200, kernel_name="python3", kernel_manager_class=KernelManager).execute()
    outputs = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert f"engine {engine}" in outputs
    assert "<th>test_accuracy</th>" in outputs
    assert "report.html" in outputs
    widgets = json.dumps(notebook.metadata.widgets, ensure_ascii=False)
    assert "225/225 steps" in widgets  # the bar, at its end
    assert "epoch 5" in widgets


def test_every_example_is_in_the_list_and_has_a_test():
    listed, tests = (EXAMPLES / "README.md").read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".ipynb"):
            assert f"({path.name})" in listed
            assert f'"{path.name}"' in tests


def test_the_notebook_is_kept_without_outputs():
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
