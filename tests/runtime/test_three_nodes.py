"""A real cluster: three Ray nodes on one machine, each in a network namespace with an address of its own.

It is made and removed here.
"""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from commands import here
from needs import needs
from safetensors.torch import load_file

from distfa.lab.links.namespaces import Nodes, obstacle
from distfa.lab.links.ray_nodes import RayNodes

pytestmark = needs("network namespaces", obstacle(), else_untested="the cluster of three nodes")
RUN = [sys.executable, "-m", "distfa", "train"]
COMMON = ["--hidden", "16,12", "--epochs", "2", "--data", "digits", "--json", "--lr", "1e-3"]


@pytest.fixture(scope="module")
def cluster():
    """(network nodes, Ray nodes), up."""
    with Nodes(3) as nodes, RayNodes(nodes, 3) as rays:
        yield nodes, rays


def train(folder, *options, prefix=(), environment=None):
    """(result, weights, stderr) of a run in a process of its own."""
    command = [*prefix, *RUN, *COMMON, "--run-dir", str(folder), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=environment or {**os.environ}, check=False
    )
    if done.returncode:
        return None, None, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), load_file(folder / "weights.safetensors"), done.stderr


@pytest.mark.timeout(180)
def test_workers_on_three_nodes_equal_serial_under_mutual_tls_within_a_range_of_ports(cluster, tmp_path):
    """Layer 1 is alone in its worker, on the node with the resource it asks for; the others share two workers."""
    nodes, rays = cluster
    on_head = {"prefix": nodes.command(1), "environment": {**rays.environment, "RAY_ADDRESS": rays.address}}
    deep, rows = ["--hidden", "16,12,8,9,7"], 2 * 1437
    where = {
        "workers": [[1], [2, 3, 4], [5, 6]],
        "layers": {1: {"cpus": 0.5, "custom": {"node2": 1}}},
        "placement": "strict_spread",
    }
    settings = [part for key, value in where.items() for part in ("--set", f"ray.{key}={json.dumps(value)}")]
    # no --address: RAY_ADDRESS counts
    result, weights, stderr = train(tmp_path / "three", *deep, *settings, "--set", "wire.ports=20000-20002", **on_head)
    assert result is not None, stderr
    places = [worker["node"] for worker in result["facts"]["workers"]]
    assert places[0] == nodes.address(2)
    assert set(places) == {nodes.address(n) for n in (1, 2, 3)}
    assert [layer["node"] for layer in result["facts"]["layers"]] == [places[i] for i in (0, 1, 1, 1, 2, 2)]
    assert result["facts"]["security"] == "tls"
    payload = {
        (row["boundary"], tuple(row.get("shared", ()))): (row["up_payload"], row["down_payload"], row["inside"])
        for row in result["bytes"]["boundaries"]
    }
    e = 4 * rows * 10  # the error has ten columns, and crosses once for layers 2 to 4
    assert payload == {
        (1, ()): (4 * rows * 16, e, 0),
        (2, ()): (0, 0, 4 * rows * 12),
        (3, ()): (0, 0, 4 * rows * 8),
        (4, ()): (4 * rows * 9, 0, 0),
        (5, ()): (0, 0, 4 * rows * 7 + e),
        (2, (2, 3, 4)): (0, e, 0),
    }
    here("train", *COMMON, *deep, "--engine", "serial", "--run-dir", tmp_path / "serial", cwd=tmp_path)
    expected = load_file(tmp_path / "serial" / "weights.safetensors")
    assert weights.keys() == expected.keys()
    for key in weights:
        assert torch.equal(weights[key], expected[key]), key


@pytest.mark.parametrize(
    ("stranger", "said"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "rejects this process's token"),
        ({"RAY_AUTH_MODE": "disabled"}, "requires a token"),
    ],
)
def test_who_does_not_know_the_token_is_told_so(cluster, stranger, said):
    nodes, rays = cluster
    code = f"from distfa.runtime.ray.reach import require_cluster; require_cluster('{rays.address}')"
    done = subprocess.run(
        [*nodes.command(1), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**rays.environment, **stranger},
        check=False,
    )
    assert f"the Ray cluster at {rays.address} {said}; set RAY_AUTH_MODE=token" in done.stderr


def under_way(folder, steps, driver):
    """Wait until this many steps are in the records of a run."""
    metrics, give_up = folder / "metrics.jsonl", time.monotonic() + 100
    while not metrics.exists() or metrics.read_text().count('"kind": "step"') < steps:
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("harm", ["lose", "unplug"])
def test_a_node_that_is_lost_takes_nothing_with_it(harm, tmp_path):
    """Its layer starts again on a node that is left, from the last checkpoint, by one recovery."""
    long = ["--hidden", "256,256", "--epochs", "30", "--set", "checkpoint.every=20", "--set", "checkpoint.seconds=0"]
    long += ["--set", "ray.placement=spread", "--set", "ray.resources.cpus=0.3", "--set", "log_every=1"]
    long += ["--set", "wire.deadline_seconds=10", "--set", "ray.startup_seconds=200"]
    with Nodes(3) as nodes, RayNodes(nodes, 3) as rays:
        command = [*nodes.command(1), *RUN, *COMMON, *long, "--run-dir", str(tmp_path / "run")]
        environment = {**rays.environment, "RAY_ADDRESS": rays.address}
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        under_way(tmp_path / "run", 100, driver)
        getattr(nodes, harm)(3)
        out, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert len(result["recoveries"]) == 1
    assert result["recoveries"][0]["attempt"] == 2
    assert nodes.address(3) not in [layer["node"] for layer in result["facts"]["layers"]]
    expected, weights, stderr = train(tmp_path / "serial", "--engine", "serial", *long)
    assert expected is not None, stderr
    found = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert result["ledger"] == expected["ledger"]
    print(json.dumps(result["recoveries"]))
