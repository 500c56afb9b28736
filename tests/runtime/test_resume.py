"""All state of a layer is in its state_dict: k steps, saved, loaded elsewhere, the rest = the whole, bit for bit."""

import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cases import in_turn, pairs
from runs import ThreadRun, assert_same_bits, raw, recipe, run_serial
from zoo import NETWORKS, made

from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.samples import Split
from distfa.core.books.records import TimelineRecord
from distfa.core.rules import RULES
from distfa.core.serial import SerialTrainer

ADAM = OptimizerConfig(name="adam", lr=3e-3, weight_decay=1e-3, schedule="cosine")
BOOKS = {"ledger_every": 1, "probe_every": 1, "ledger_exact": True}


def case(network, rule, schedule):
    """(recipe, modules, samples, the step at which the first part ends)."""
    settings = {"rule": rule, "schedule": schedule, "micro_batches": 4 if schedule == "async" else 2, **BOOKS}
    if network == "mlp":
        r = recipe(optimizer=ADAM, epochs=2, **settings)
        return r, None, raw(r), 5 if schedule == "async" else 3  # 75 rows in batches of 16: five steps an epoch
    r, modules, data = made(network, **settings)
    return r, modules, data, 3 if schedule == "async" else 4  # 22 rows in batches of 8: three steps an epoch


def sorted_records(records):
    def key(record):
        names = ("step", "boundary", "direction", "micro_batch")
        return type(record).__name__, *(getattr(record, name, 0) or 0 for name in names)

    return sorted((r for r in records if not isinstance(r, TimelineRecord)), key=lambda r: str(key(r)))


def serial(r, modules, data):
    torch.set_num_threads(1)
    halves = [side.readers(r.dtype, torch.device("cpu")) for side in data]
    return SerialTrainer(r, *(Split(inputs=x, targets=y) for x, y in zip(*halves, strict=True)), modules=modules)


@in_turn(how=product(["mlp", *NETWORKS], ["sync", "async"]), rule=RULES)
def test_a_serial_run_in_two_parts_is_the_whole(how, rule):
    network, schedule = how
    r, modules, data, at = case(network, rule, schedule)
    whole, records, _ = run_serial(r, data, modules=modules)
    first = serial(r, modules, data)
    begun = list(first.run(stop=at))
    rest = serial(r, modules, data)
    rest.load_state_dict(first.state_dict())
    begun += rest.run()
    assert_same_bits(whole, rest.state())
    assert sorted_records(begun) == sorted_records(records)


@pytest.mark.parametrize(("network", "rule", "schedule"), pairs(["mlp", *NETWORKS], RULES, ["sync", "async"])[::6])
def test_a_wired_run_in_two_parts_on_fewer_workers_is_the_whole(network, rule, schedule):
    r, modules, data, at = case(network, rule, schedule)
    whole, _, _ = run_serial(r, data, modules=modules)
    layers, how = range(1, len(r.network) + 1), {"modules": modules, "transport": "loopback"}
    two = (tuple(layers[:2]), tuple(layers[2:]))
    with ThreadRun(r, data, span=(0, at), workers=() if schedule == "sync" else two, **how) as begun:
        begun.train()
        state = {l.layer.index: l.state_dict() for handle in begun.handles for l in handle.hosted.layers}
    with ThreadRun(r, data, span=(at, None), resume=state, workers=(tuple(layers),), **how) as rest:
        weights, _ = rest.train()
    assert_same_bits(whole, weights)


GO_ON = """
import pickle, sys, safetensors.torch
sys.path.insert(0, sys.argv[2])
from test_resume import case, serial
told = pickle.load(open(sys.argv[1] + "/told", "rb"))
trainer = serial(*case(*told["case"])[:3])
layers = {n: safetensors.torch.load_file(f"{sys.argv[1]}/{n}.safetensors") for n in told["layers"]}
trainer.load_state_dict({"step": told["step"], "books": told["books"], "layers": layers})
list(trainer.run())
safetensors.torch.save_file({k: v.contiguous() for k, v in trainer.state().items()}, sys.argv[1] + "/weights")
"""


@pytest.mark.parametrize(
    "network", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "transformer"))]
)
def test_a_run_goes_on_in_another_process_from_files(network, tmp_path):
    told = (network, "kp", "sync")
    r, modules, data, at = case(*told)
    whole, _, _ = run_serial(r, data, modules=modules)
    first = serial(r, modules, data)
    list(first.run(stop=at))
    state = first.state_dict()
    for number, tensors in state["layers"].items():
        safetensors.torch.save_file(tensors, tmp_path / f"{number}.safetensors")
    about = {"case": told, "step": state["step"], "books": state["books"], "layers": list(state["layers"])}
    (tmp_path / "told").write_bytes(pickle.dumps(about))
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", GO_ON, str(tmp_path), str(Path(__file__).parent)]
    path = f"{tests}:{tests.parent}"
    subprocess.run(command, check=True, timeout=120, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"})
    assert_same_bits({k: v.contiguous() for k, v in whole.items()}, safetensors.torch.load_file(tmp_path / "weights"))


def test_an_asynchronous_run_does_not_stop_with_micro_batches_under_way():
    r = replace(recipe(), schedule="async", micro_batches=4)
    with pytest.raises(ValueError, match="stop at the end of an epoch, such as after step 5"):
        list(serial(r, None, raw(r)).run(stop=3))
