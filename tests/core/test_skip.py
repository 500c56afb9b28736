"""Rule skip against its definition: g = dLoss/dh_{L-1} down the shortcuts, and every layer's own exact gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import assert_same_bits, grouped, recipe, run_serial, run_threads
from streams import CLASSES, SHAPE, stack
from torch import nn

from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import CutConfig, Recipe
from distfa.core.base.samples import Split
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.serial import SerialTrainer
from distfa.intake.stream import with_shortcuts
from distfa.runtime.job import RawInputs, RawTargets
from distfa.sections.split import divide
from distfa.settings import RunSpec

F64 = torch.float64


def prepared(model, *, shape=SHAPE, classes=CLASSES, rows=18, dtype=F64, rule="skip", **changes):
    """(recipe, modules, data) of a run by rule skip."""
    network, division = divide(model.to(dtype), shape, head=True)
    network = with_shortcuts(network, division.parts(model), RunSpec(rule=rule))
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((rows, int(np.prod(shape)))), rng.integers(0, classes, rows)
    one = np.ones(1)
    inputs = RawInputs(train=x, test=x[:4], mean=0 * one, std=one, shape=shape)
    settings = {
        "optimizer": OptimizerConfig(name="sgd", lr=0.05, momentum=0.9),
        "batch_size": 6,
        "seed": 7,
        "dtype": dtype,
        **grouped({"epochs": 2, **changes}),
    }
    modules = dict(enumerate(division.parts(model), start=1))
    return Recipe(network=network, rule=rule, **settings), modules, (inputs, RawTargets(train=y, test=y[:4]))


def made(**changes):
    torch.manual_seed(3)
    return prepared(stack(), **changes)


def trainer_of(r, data, modules):
    readers = zip(*(side.readers(r.dtype, torch.device("cpu")) for side in data), strict=True)
    return SerialTrainer(r, *(Split(inputs=x, targets=y) for x, y in readers), modules=modules)


def back(function, at, signal):
    """The vector-Jacobian product of a function."""
    x = at.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, signal)[0]


def signals(layers, hidden, g):
    """s_l of every hidden layer, the lowest first."""
    s = [g]
    for layer, h in zip(reversed(layers[1:]), reversed(hidden[:-1]), strict=True):
        s.insert(0, back(layer.shortcut, h, s[0]))
    return s


def by_definition(r, modules, data):
    """The weights after training in plain torch, by the definition of the rule."""
    *layers, head = [part if len(part) > 1 else part[0] for part in modules.values()]
    x, y = (side.readers(F64, torch.device("cpu"))[0] for side in data)
    parameters = [p for part in (*layers, head) for p in part.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=r.optimizer.lr, momentum=r.optimizer.momentum, foreach=False)
    for batch in order.batches(r, len(x)):
        optimizer.zero_grad()
        for rows in batch.parts:
            hidden, outputs = [x.read(rows)], []
            for layer in layers:
                outputs.append(layer(hidden[-1]))
                hidden.append(outputs[-1].detach())
            top = hidden[-1].requires_grad_()
            (F.cross_entropy(head(top), y.read(rows), reduction="sum") / batch.rows).backward()
            for out, s in zip(outputs, signals(layers, hidden[1:], top.grad), strict=True):
                out.backward(s)
        optimizer.step()
    return nn.ModuleDict({str(n): part for n, part in modules.items()}).state_dict()


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_every_layer_learns_from_g_along_the_shortcuts(micro_batches):
    r, modules, data = made(micro_batches=micro_batches)
    assert len(r.network) == 8
    assert [kind for _, kind in r.network[8].modules][:2] == ["BatchNorm2d", "ReLU"]
    weights, _, _ = run_serial(r, data, modules=modules)
    for key, value in by_definition(r, modules, data).items():
        torch.testing.assert_close(weights[key.partition(".")[2]], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("how", "codecs"),
    [
        ({"micro_batches": 3, "probe_every": 2}, ("fp32", "fp32")),
        ({"micro_batches": 3, "schedule": "async", "fanout": 2}, ("bf16", "int8")),
        ({"micro_batches": 3, "mixed": True}, ("fp32", "fp32")),
    ],
    ids=["probed", "async and codecs", "mixed"],
)
def test_workers_equal_the_oracle_and_their_books_are_in_order(how, codecs):
    r, modules, data = made(dtype=torch.float32, ledger_every=1, ledger_exact=True, **how)
    lossy = dict(zip(("activations", "errors"), codecs, strict=True))
    expected, _, _ = run_serial(r, data, modules=modules, **lossy)
    weights, records = run_threads(r, data, modules=modules, transport="loopback", **lossy)
    assert_same_bits(expected, weights)
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    digests = [record for record in records if isinstance(record, DigestRecord)]
    assert len(entries) == 6 * 7
    assert [describe_violation(entry) for entry in entries if not entry.holds] == []
    senders = {record.sender for record in digests if record.direction == "down"}
    assert senders == ({5, 6, 7, 8} if "fanout" in how else {8})
    assert all(record.holds for record in digests)


def test_the_book_moves_in_every_step_also_in_those_that_are_not_entered():
    def entries(every):
        r, modules, data = made(ledger_every=every, max_steps=6)
        records = run_serial(r, data, modules=modules)[1]
        return [record for record in records if isinstance(record, LedgerRecord)]

    each, seldom = entries(1), entries(3)
    assert {entry.step for entry in seldom} == {0, 3}
    assert seldom == [entry for entry in each if entry.step in (0, 3)]
    assert len({entry.potential for entry in each}) == len(each)


def test_a_network_of_one_hidden_layer_learns_as_by_bp():
    by_bp, by_skip = (run_serial(recipe((12, 9, 5), rule=rule))[0] for rule in ("bp", "skip"))
    assert_same_bits(by_bp, by_skip)


def test_a_network_whose_paths_are_not_known_is_an_error_and_no_silence():
    known = recipe((12, 9, 9, 5), rule="skip")
    with pytest.raises(ValueError, match="'skip' needs the path of shortcuts to layer 1: Network.paths"):
        run_serial(replace(known, network=replace(known.network, paths={})))


def test_a_run_that_is_saved_goes_on_as_the_whole():
    r, modules, data = made(schedule="async", micro_batches=3, cuts=CutConfig(every=2), ledger_every=1)
    expected, _, _ = run_serial(r, data, modules=modules)
    first, second = (trainer_of(r, data, modules) for _ in range(2))
    list(first.run(stop=2))
    second.load_state_dict(first.state_dict())
    list(second.run())
    assert_same_bits(expected, second.state())
