"""Runs on a real Ray cluster: actors equal the serial oracle, and failures end with one message."""

import contextlib
import os
import re
import signal
import socket
import threading
import time

import psutil
import pytest
import ray
import torch
from cases import label
from ray.util.placement_group import placement_group, remove_placement_group
from runs import assert_same_bits, blobs, recipe

from distfa.core.rules import RULES
from distfa.data import from_arrays
from distfa.errors import ClusterError, LayerLost, SpecError, TransportError
from distfa.run.run import run
from distfa.runtime.ray import reserve
from distfa.settings import parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")
ROWS = 75


@pytest.fixture
def train(tmp_path):
    """Train a small network; returns (result, weights)."""
    count = iter(range(100))

    def train(engine, sizes=(12, 17, 9, 5), observer=lambda progress: None, **settings):
        x, y = blobs(sizes[0], sizes[-1], ROWS + 20)
        spec = parse_spec(
            {
                "engine": engine,
                "batch_size": 16,
                "epochs": 4,
                "eval_every": 2,
                "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
                "run_dir": str(tmp_path / f"run-{next(count)}"),
                **settings,
            }
        )
        dataset = from_arrays((x[:ROWS], y[:ROWS]), (x[ROWS:], y[ROWS:]))
        return run(spec, recipe(sizes).network, dataset, observer=observer)

    return train


def assert_equal_runs(train, **settings):
    """Ray and serial end with the same weights and the same figures."""
    result, weights = train("ray", **settings)
    oracle, expected = train("serial", **settings)
    assert_same_bits(weights, expected)
    assert (result.train_loss, result.test_loss) == (oracle.train_loss, oracle.test_loss)
    assert (result.train_accuracy, result.test_accuracy) == (oracle.train_accuracy, oracle.test_accuracy)
    assert result.steps == oracle.steps
    return result


SYNC, PARTS, ASYNC = ("sync", 1), ("sync", 4), ("async", 4)


@pytest.mark.parametrize(
    ("rule", "how", "dtype", "epochs"),
    [
        pytest.param("bp", SYNC, "float32", 4, marks=pytest.mark.slow),
        ("fa", PARTS, "float64", 4),
        pytest.param("dfa", ASYNC, "float32", 8, marks=pytest.mark.slow),  # the test of renewal has its like, dkp
        pytest.param("usf", SYNC, "float64", 4, marks=pytest.mark.slow),
        pytest.param("frsf", PARTS, "float32", 4, marks=pytest.mark.slow),
        pytest.param("brsf", ASYNC, "float64", 4, marks=pytest.mark.slow),
        pytest.param("kp", ASYNC, "float32", 4, marks=pytest.mark.slow),
        pytest.param("dkp", PARTS, "float32", 4, marks=pytest.mark.slow),  # the test of renewal has it
        pytest.param("drtp", PARTS, "float64", 4, marks=pytest.mark.slow),
    ],
    ids=label,
)
def test_actors_equal_serial_by_every_rule(train, rule, how, dtype, epochs):
    """By default one hop by hop; tests/runtime/test_equals_serial.py has the same workers, as threads, by all."""
    schedule, micro_batches = how
    settings = {"schedule": schedule, "micro_batches": micro_batches, "dtype": dtype, "epochs": epochs}
    assert assert_equal_runs(train, rule=rule, **settings).steps == 5 * epochs


def test_actors_renew_feedback_in_the_steps_in_which_serial_does(train):
    feedback = {"renew": {"below": 0.999, "rows": 8}}
    settings = {"rule": "dkp", "feedback": feedback, "probe": {"every": 3}, "schedule": "async", "micro_batches": 4}
    assert assert_equal_runs(train, sizes=(12, 9, 5), **settings).renewals > 1


def test_every_rule_had_its_turn():
    (cases,) = (mark.args[1] for mark in test_actors_equal_serial_by_every_rule.pytestmark)
    assert [getattr(case, "values", case)[0] for case in cases] == [
        name for name, rule in RULES.items() if not rule.follows_shortcuts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [SYNC, PARTS, ASYNC], ids=label)
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_actors_equal_serial_after_two_hundred_steps(train, rule, how, dtype):
    schedule, micro_batches = how
    settings = {"schedule": schedule, "micro_batches": micro_batches, "dtype": dtype, "epochs": 40, "eval_every": 20}
    assert assert_equal_runs(train, rule=rule, **settings).steps == 200


@pytest.mark.slow  # the test of a busy cluster has one
@pytest.mark.parametrize(
    "sizes",
    [(12, 5), (12, 5, 17, 9, 3, 14, 6, 8, 10, 11, 12, 13, 4, 15, 7, 3, 5)],
    ids=["1 layer", "16 layers"],
)
def test_one_actor_and_sixteen(train, sizes):
    assert_equal_runs(train, sizes=sizes, micro_batches=2, optimizer="adam")


def test_over_mutual_tls_lossy_codecs_lose_the_same_bits(train):
    codec = {"activations": "int8", "errors": "bf16"}
    result = assert_equal_runs(train, sizes=(12, 9, 5), codec=codec, wire={"security": "tls"})
    assert result.facts["security"] == "tls"


def test_a_seed_makes_a_serial_run_repeatable(train):
    one, again, other = (train("serial", seed=seed)[1] for seed in (5, 5, 6))
    assert_same_bits(one, again)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_a_killed_worker_takes_its_layers_down_and_all_of_them_come_back(train):
    observer = killing(signal.SIGKILL)
    spec = {"threads": 2, "sizes": (12, 17, 9, 14, 6, 5), "checkpoint": {"every": 5, "seconds": 0}, "schedule": "async"}
    spec |= {"micro_batches": 4, "probe": {"every": 4}, "epochs": 6}
    result, weights = train("ray", observer=observer, ray={"workers": 2}, wire={"security": "tls"}, **spec)
    oracle, expected = train("serial", **spec)
    assert_same_bits(weights, expected)
    assert (result.train_loss, result.ledger) == (oracle.train_loss, oracle.ledger)
    (recovery,) = result.recoveries
    assert re.match(r"worker \d \(layers \d-\d\), step \d+ \(process \d+ on \S+\): its process died", recovery["cause"])
    assert result.facts["security"] == "tls"
    assert len(result.facts["workers"]) == 2
    inside = [row["inside"] > 0 for row in result.bytes["boundaries"] if "shared" not in row]
    assert inside.count(False) == 1


def test_workers_that_cannot_host_the_layers_are_refused_before_ray_starts(train):
    for workers, said in (
        (4, "ray.workers is 4, but the network has 3 layers, and a worker hosts at least one; set it to at most 3"),
        ([[1, 3], [2]], r"ray.workers is \[\[1, 3\], \[2\]\], but it must name every layer, 1 to 3, once and in order"),
    ):
        with pytest.raises(SpecError, match=said):
            train("ray", ray={"workers": workers})
    with pytest.raises(SpecError, match="ray.layers gives layer 2 resources of its own, but worker 1 hosts layers 1-2"):
        train("ray", ray={"workers": [[1, 2], [3]], "layers": {2: {"cpus": 0.1}}})


def killing(how, after_steps=20):
    """An observer that signals the second layer's process in the middle of a run."""
    victims = []

    def observe(progress):
        if progress.tally.steps >= after_steps and not victims:
            victims.append((actor_processes()[1], time.monotonic()))
            os.kill(victims[0][0], how)

    observe.victims = victims
    return observe


def assert_just_ended(observer, within_seconds=30):
    """The run ended so soon after one of its processes was signalled."""
    ((_, when),) = observer.victims
    assert time.monotonic() - when < within_seconds


def actor_processes():
    """Process ids of the layer actors whose driver is this process, by age."""
    mine = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::WorkerHost"):
                mine.append((process.create_time(), process.pid))
    return [pid for _, pid in sorted(mine)]


def test_a_killed_layer_ends_the_run_within_thirty_seconds_by_name(train, tmp_path):
    observer = killing(signal.SIGKILL)
    with pytest.raises(
        LayerLost, match=r"layer \d, step \d+ \(process \d+ on \S+\): its process died .*\n.* steps are in"
    ):
        train("ray", (12, 9, 5), epochs=4000, eval_every=4000, observer=observer, ray={"max_recoveries": 0})
    assert_just_ended(observer)
    assert (tmp_path / "run-0" / "metrics.jsonl").read_text().count("\n") > 1
    assert '"status": "failed"' in (tmp_path / "run-0" / "run.json").read_text()


@pytest.mark.slow  # tests/runtime/test_recovery.py stops layers, too
def test_a_stopped_layer_ends_the_run_within_thirty_seconds_by_name(train):
    observer = killing(signal.SIGSTOP)
    with pytest.raises(
        LayerLost, match=r"layer \d, step \d+ \(process \d+ on \S+\): its process has not answered for \d+ s"
    ):
        gives_up = {"ray": {"max_recoveries": 0}, "wire": {"deadline_seconds": 5}}
        train("ray", epochs=4000, eval_every=4000, observer=observer, **gives_up)
    assert_just_ended(observer)


def test_a_port_in_use_is_named_and_leaves_no_run_directory(train, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TransportError, match=rf"found no free port in wire.ports {port} on 127.0.0.1 .*{port} by "):
            train("ray", (12, 5), wire={"ports": port})
    assert list(tmp_path.iterdir()) == []


def test_resources_the_cluster_does_not_have_are_named(train, monkeypatch):
    assert reserve._JOIN_SECONDS <= 10
    monkeypatch.setattr(reserve, "_JOIN_SECONDS", 0.5)
    with pytest.raises(
        ClusterError,
        match=r"cannot place 3 layers \(pack\): layer 1 asks for CPU .*, accelerator_of_dreams 1, but no node has that "
        r"\(accelerator_of_dreams 1 more is needed\); the cluster has node 127\.0\.0\.1: CPU \d+",
    ):
        train("ray", ray={"resources": {"custom": {"accelerator_of_dreams": 1}}})


def test_cuda_on_a_cluster_without_gpus_says_so_at_once(train):
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"device is 'cuda', but no node of the cluster has a GPU \(node 127"):
        train("ray", device="cuda")
    assert time.monotonic() - began < 5


def test_a_busy_cluster_is_waited_for_with_a_word_on_who_holds_it(train, caplog):
    busy = placement_group([{"CPU": ray.cluster_resources()["CPU"]}], name="somebody else")
    assert busy.wait(10)
    threading.Timer(3.0, remove_placement_group, [busy]).start()
    _, weights = train("ray", (12, 5), epochs=2)
    assert_same_bits(weights, train("serial", (12, 5), epochs=2)[1])
    assert "waiting for room on the Ray cluster" in caplog.text
    assert "held by placement groups: 'somebody else' CPU" in caplog.text


def test_a_cluster_that_stays_busy_is_given_up_with_who_holds_it(train):
    busy = placement_group([{"CPU": ray.cluster_resources()["CPU"]}], name="somebody else")
    assert busy.wait(10)
    with pytest.raises(
        ClusterError,
        match=r"could not place 3 layers \(pack\) within 2 s: the layers ask for CPU .* together; free: CPU 0 of "
        r".*; held by placement groups: 'somebody else' CPU",
    ):
        train("ray", ray={"startup_seconds": 2})
    remove_placement_group(busy)


@pytest.mark.slow  # by default a serial run is repeated, and a run on Ray compared with a serial one
def test_a_seed_makes_a_run_repeatable(train):
    assert_same_bits(train("ray", epochs=2, seed=5)[1], train("ray", epochs=2, seed=5)[1])
    assert not torch.equal(train("serial", epochs=2, seed=5)[1]["0.weight"], train("serial", epochs=2)[1]["0.weight"])
