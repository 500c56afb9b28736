"""``distfa plan`` as a user runs it."""

import json

import commands
import pytest
import yaml

from distfa.plan.calibration import Calibration
from distfa.plan.cluster import EXAMPLE


def plan(*args, cwd, code=0):
    done = commands.here("plan", *args, cwd=cwd, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def here(tmp_path):
    (tmp_path / "cluster.yaml").write_text(EXAMPLE)
    (tmp_path / "measured.yaml").write_text("nodes: 1\ncalibration: c.json\n")
    Calibration().save(tmp_path / "c.json")
    return tmp_path


def test_a_plan_says_time_bytes_memory_and_bottleneck(here):
    out = plan("--cluster", "cluster.yaml", "--set", "micro_batches=4", "--peer", cwd=here).stdout
    assert out.startswith("dfa, sync: 64-128-128-10, 3 layers on 1 node, batch 32 in 4 micro-batches\nstep ")
    assert "bottleneck: " in out
    assert "note: the figures are for typical server cores" in out
    assert "note: placement 'pack' puts all 3 layers on one node, so nothing crosses the network" in out
    assert all(name in out for name in ("dfa, async", "bp, sync", "1F1B pipeline, bp", "GPipe pipeline, bp"))
    assert str(here) not in out


def test_a_model_is_planned_by_its_own_layers(here):
    args = ("--cluster", "cluster.yaml", "--set", "model.name=lenet", "--set", "feedback.renew.every=10", "--json")
    found = json.loads(plan(*args, cwd=here).stdout)["plan"]
    up, classes = [6 * 4 * 4, 16 * 2 * 2, 120, 84], 10
    assert [row["up"] for row in found["boundaries"]] == [32 * numbers * 4 for numbers in up]
    rows = [numbers * classes * 4 // 10 for numbers in up]  # of feedback, in every tenth step
    assert [row["down"] for row in found["boundaries"]] == [32 * classes * 4 + share for share in rows]
    assert len(found["memory"]) == 5


@pytest.mark.parametrize(("option", "value"), [("--sizes", "64,10"), ("--layers", "3")])
def test_what_only_a_perceptron_has_is_refused_for_another_model(here, option, value):
    args = ("--cluster", "cluster.yaml", "--set", "model.name=lenet", option, value)
    assert "'lenet'" in plan(*args, cwd=here, code=2).stderr


def test_json_is_one_object_with_closed_form_bytes(here):
    args = ("--cluster", "cluster.yaml", "--sizes", "20,5", "--layers", 6, "--set", "rule=fa", "--json")
    found = json.loads(plan(*args, cwd=here).stdout)
    boundaries = found["plan"]["boundaries"]
    assert [row["up"] for row in boundaries] == [32 * 128 * 4] * 5
    assert [row["down"] for row in boundaries] == [32 * 128 * 4] * 4 + [32 * 5 * 4]
    assert len(found["plan"]["memory"]) == 6
    assert [row["name"] for row in found["comparison"]] == ["fa, sync", "bp, sync"]


def test_several_depths_are_a_line_each_and_the_fanout_is_named(here):
    args = ("--cluster", "cluster.yaml", "--sizes", "20,5", "--layers", "3,9", "--set", "feedback.fanout=3")
    out = plan(*args, cwd=here).stdout
    assert "step time by depth" in out
    assert "dfa, sync, fanout 3" in out


def test_a_better_placement_is_offered(here):
    cluster = "nodes: {count: 4, cores: 4, flops_per_second: 1e9, nic_bits_per_second: 1e11}\n"
    (here / "slow.yaml").write_text(cluster + "network: {latency_seconds: 1e-6}\n")
    wide = ("--cluster", "slow.yaml", "--sizes", "500,10", "--set", "model.hidden=[500]", "--layers", "16")
    packed = plan(*wide, "--set", "micro_batches=16", "--set", "ray.resources={cpus: 0.5}", cwd=here).stdout
    assert "note: --set ray.placement=spread puts them on 4 nodes, and a step would take " in packed
    spread = plan(*wide, "--set", "micro_batches=16", "--set", "ray.placement=spread", cwd=here).stdout
    assert "note: --set ray.placement" not in spread


def test_the_example_is_printed_as_yaml(tmp_path):
    assert "nodes" in yaml.safe_load(plan("--example", cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no cluster is described; give --cluster FILE"),
        (("--cluster", "absent.yaml"), "cannot read the cluster absent.yaml"),
        (
            ("--calibrate", "/proc/none/c.json"),
            "--calibrate is /proc/none/c.json, which cannot be written: No such file",
        ),
        (("--cluster", "cluster.yaml", "--sizes", "20"), "--sizes is '20'; it takes 2 whole numbers"),
        (("--cluster", "cluster.yaml", "--layers", "0"), "--layers is '0'; it takes whole numbers above 0"),
        (
            ("--cluster", "cluster.yaml", "--set", "rule=fa", "--set", "feedback.fanout=1"),
            "feedback.fanout works only with rule dfa, dkp, skip, which sends every layer the same error",
        ),
        (("--cluster", "cluster.yaml", "--set", "rule=ba"), "is not one of"),
        (
            ("--cluster", "cluster.yaml", "--sizes", "20,5", "--set", "rule=skip"),
            "not past layer 2 (2 Linear, 3 ReLU): no path leads through it without trained weights",
        ),
        (
            ("--cluster", "measured.yaml", "--set", "dtype=bfloat16"),
            "is for float32 products, but the run's are bfloat16; calibrate with the run's own spec",
        ),
    ],
)
def test_what_cannot_be_planned_ends_in_one_line_and_exit_code_2(here, args, message):
    done = plan(*args, cwd=here, code=2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
