"""``distfa bench faults`` and ``checkpoints``: a plan is its seed's, and what is asked for is measured."""

import json

import pytest
from commands import here

from distfa.bench.outcome import Outcome
from distfa.runtime.faults import Fault, plan_faults


def test_a_plan_is_its_seeds_and_spreads_over_the_run():
    def planned(seed):
        return plan_faults(20, kinds=list(Fault), layers=3, steps=1000, seed=seed)

    faults = planned(7)
    assert faults == planned(7) != planned(8)
    steps = [fault.step for fault in faults]
    assert steps == sorted(steps)
    assert 1 <= steps[0] < 100
    assert 900 < steps[-1] < 1000
    assert {fault.fault for fault in faults} == set(Fault)
    assert {fault.layer for fault in faults} == {1, 2, 3}
    timed = plan_faults(3, kinds=list(Fault), layers=3, steps=1000, seed=7, every_seconds=60)
    assert [(fault.step, fault.seconds) for fault in timed] == [(1, 60), (1, 120), (1, 180)]


def test_checkpoints_are_priced_against_the_same_run_without(tmp_path):
    options = ("--engine", "serial", "--hidden", 8, "--epochs", 2, "--every", 4, "--rounds", 1, "--schedules", "sync")
    done = here("bench", "checkpoints", *options, "--json", cwd=tmp_path)
    none, every = json.loads(done.stdout)["rows"]
    assert (none["setting"], none["written"], none["more"]) == ("none", 0, None)
    assert (every["setting"], every["written"]) == ("every 4 steps", 2)
    for key, more in (("step_ms", "more"), ("cpu_ms", "cpu_more")):
        assert every[more] == pytest.approx(100 * (every[key] / none[key] - 1))
        assert every[key] > 0
    assert every["mb"] > 0


@pytest.mark.slow
def test_tls_is_priced_against_the_same_run_in_plain_text(tmp_path):
    options = ("--hidden", "16,16", "--epochs", 2, "--rounds", 2, "--schedules", "async")
    here("bench", "tls", *options, cwd=tmp_path)
    found = Outcome.load(tmp_path / "bench-tls.json")
    assert [row["setting"] for row in found.rows] == ["plain text", "mutual TLS"]
    assert [shot["setting"] for shot in found.raw] == ["plain text", "mutual TLS", "mutual TLS", "plain text"]
    assert all(shot["cpu_ms"] > shot["layers_cpu_ms"] > 0 for shot in found.raw)


@pytest.mark.slow
def test_faults_are_recovered_from_and_timed(tmp_path):
    options = ("--hidden", "32,32", "--kinds", "kill,cut", "--schedules", "sync", "--soak", 3, "--deadline", 10)
    here("bench", "faults", *options, cwd=tmp_path)
    rows = Outcome.load(tmp_path / "bench-faults.json").rows
    assert [(row["fault"], row["layer"]) for row in rows] == [
        *((kind, str(layer)) for kind in ("kill", "cut") for layer in (1, 2, 3)),
        ("any", "any"),
    ]
    assert [row["recovered"] for row in rows] == [1] * 6 + [3]
    assert all(row["noticed_seconds"] > 0 and row["seconds"] > 0 for row in rows)


def test_an_unknown_fault_is_refused(tmp_path):
    done = here("bench", "faults", "--kinds", "kill,burn", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--kinds: 'burn' is not one of kill, hang, cut, memory" in done.stderr
