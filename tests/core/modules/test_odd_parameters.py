"""Parameters of every shape and order in memory: trained under every rule, with the books in order; bp as torch."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from runs import assert_same_bits, run_serial
from torch import nn
from zoo import prepared

from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.samples import Split
from distfa.core.books.ledger import LedgerRecord
from distfa.core.rules import RULES
from distfa.core.serial import SerialTrainer
from distfa.sections.split import split

F64 = torch.float64


class Gate(nn.Module):
    """A shortcut and a branch with a gate of one number without an axis."""

    def __init__(self):
        super().__init__()
        self.gate, self.branch = nn.Parameter(torch.tensor(0.5)), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.gate * self.branch(x)


class Nothing(nn.Module):
    """A branch without any units, and a parameter without numbers."""

    def __init__(self):
        super().__init__()
        self.none, self.into, self.back = nn.Parameter(torch.empty(0)), nn.Linear(6, 0), nn.Linear(0, 6)

    def forward(self, x):
        return x + self.back(self.into(x)) + self.none.sum()


class Tied(nn.Module):
    """Two Linears with one weight."""

    def __init__(self):
        super().__init__()
        self.up, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.up.weight

    def forward(self, x):
        return self.again(torch.tanh(self.up(x)))


class Pairs(nn.Module):
    """Complex numbers, as the pairs that a parameter can hold; their view reads the parameter's own memory."""

    def __init__(self):
        super().__init__()
        self.turn, self.back = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3, 2))

    def forward(self, x):
        turned = torch.view_as_complex(x.reshape(-1, 3, 2)) * torch.view_as_complex(self.turn)
        return torch.view_as_real(turned * torch.view_as_complex(self.back).conj()).flatten(1)


def laid(weight):
    linear = nn.Linear(6, 6)
    linear.weight = nn.Parameter(weight)
    return linear


def between(module):
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), module, nn.ReLU(), nn.Linear(6, 3)), (6,)


def convolutions(kind, memory, shape):
    layers = kind(2, 4, 3, padding=1), nn.ReLU(), kind(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    model = nn.Sequential(*layers)
    model(torch.zeros(1, *shape))
    return model.to(memory_format=memory), shape


NETWORKS = {
    "no axis": lambda: between(Gate()),
    "no numbers": lambda: between(Nothing()),
    "tied inside": lambda: between(Tied()),
    "complex pairs": lambda: between(Pairs()),
    "transposed": lambda: between(laid(torch.randn(6, 6).t())),
    "every other column": lambda: between(laid(torch.randn(6, 12)[:, ::2])),
    "width one": lambda: (nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 3)), (6,)),
    "channels last": lambda: convolutions(nn.Conv2d, torch.channels_last, (2, 4, 4)),
    "channels last in 3d": lambda: convolutions(nn.Conv3d, torch.channels_last_3d, (2, 3, 3, 3)),
}


@pytest.fixture
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


BARE = ("complex pairs",)  # not weights of a Linear or Conv, so that rules with feedback in their place refuse them
TAUGHT = [(n, rule) for n in NETWORKS for rule in RULES if n not in BARE or rule == "bp" or RULES[rule].is_direct]


@pytest.mark.parametrize(("network", "rule"), TAUGHT, indirect=["network"])
def test_every_rule_trains_them_with_the_books_in_order(network, rule):
    model, shape = network
    settings = {"epochs": 1, "ledger_every": 1, "probe_every": 2, "dtype": F64}
    recipe, modules, data = prepared(model.double(), shape, 3, rule=rule, init="given", **settings)
    weights, records, _ = run_serial(recipe, data, modules=modules)
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    assert all(entry.holds for entry in entries)
    assert bool(entries) == bool(RULES[rule].potential)
    assert weights.keys() == model.state_dict().keys()


@pytest.mark.parametrize("network", ["channels last", "channels last in 3d"], indirect=True)
@pytest.mark.parametrize("rule", ["bp", "kp"])
def test_a_run_goes_on_from_a_file_whatever_the_order_in_memory(network, rule):
    """A file holds numbers in their order, and torch's fused optimizers read a state in the order of its parameter."""
    model, shape = network
    recipe, modules, data = prepared(model.double(), shape, 3, rule=rule, epochs=2, dtype=F64)
    whole, _, _ = run_serial(recipe, data, modules=modules)
    x, y = (side.readers(F64, torch.device("cpu")) for side in data)
    splits = Split(inputs=x[0], targets=y[0]), Split(inputs=x[1], targets=y[1])
    first, second = (SerialTrainer(recipe, *splits, modules=modules) for _ in range(2))
    list(first.run(stop=3))
    state = first.state_dict()
    layers = {n: {name: value.contiguous() for name, value in held.items()} for n, held in state["layers"].items()}
    second.load_state_dict({**state, "layers": layers})
    list(second.run())
    assert_same_bits(second.state(), whole)


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
@pytest.mark.parametrize("optimizer", [OptimizerConfig(name="sgd", lr=0.05, momentum=0.9), OptimizerConfig(lr=0.01)])
def test_backpropagation_is_torchs_own(network, optimizer):
    model, shape = network
    kept = {"rule": "bp", "init": "given", "optimizer": optimizer, "dtype": F64}
    recipe, modules, data = prepared(copy.deepcopy(model).double(), shape, 3, **kept)
    found, _, _ = run_serial(recipe, data, modules=modules)
    x, y = (side.readers(F64, torch.device("cpu"))[0] for side in data)
    model = nn.Sequential(OrderedDict(model.double().named_children()))
    if optimizer.name == "sgd":
        stepper = torch.optim.SGD(model.parameters(), lr=optimizer.lr, momentum=optimizer.momentum)
    else:
        stepper = torch.optim.Adam(model.parameters(), lr=optimizer.lr)
    for batch in order.batches(recipe, len(x)):
        stepper.zero_grad()
        F.cross_entropy(model(x.read(batch.parts[0])), y.read(batch.parts[0])).backward()
        stepper.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(found[name], value, atol=1e-9), name


class Scaled(nn.Module):
    """A bare matrix that is made anew at every use."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return F.linear(x, self.mix / self.mix.norm())


@pytest.mark.parametrize(("module", "name"), [(Scaled, "2.mix"), (Pairs, "2.turn"), (Gate, None)])
def test_what_no_feedback_stands_in_for_is_named_in_whatever_form_the_way_back_reads_it(module, name):
    """A matrix divided by its norm let errors back as bp does, under the name of fa."""
    model, shape = between(module())
    assert (name in split(model, shape)[2].transported) if name else not split(model, shape)[2].transported
