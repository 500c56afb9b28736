"""Direct rules send e = dLoss/dz_L where only elementwise modules follow the last Linear or Conv, of whatever class."""

import copy

import pytest
import torch
from runs import run_serial
from torch import nn
from zoo import prepared

from distfa.core.layer import Layer
from distfa.sections.split import split

F64 = torch.float64


class OwnTanh(nn.Module):
    def forward(self, x):
        return x.tanh()


class LikeTanh(nn.Tanh):
    """A subclass, which may compute something else, and does not."""


class Scaled(nn.Module):
    """A constant beside it, and a state that it counts in."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.scale


class Turned(nn.Module):
    def forward(self, x):
        return x.flip(1)


class Normed(nn.Module):
    """Of unit length only where it is long."""

    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True).clamp_min(20.0)


ELEMENTWISE = {
    "known": nn.Tanh,
    "subclass": LikeTanh,
    "own class": OwnTanh,
    "nested": lambda: nn.Sequential(nn.Tanh(), nn.Identity()),
    "in place": lambda: nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "constants": Scaled,
    "dropout": lambda: nn.Dropout(0.3),
    "sign of zero and nan": lambda: nn.Sequential(nn.Hardshrink(), nn.LogSigmoid()),
}
OTHERS = {
    "softmax": lambda: nn.LogSoftmax(1),
    "long ones only": Normed,
    "its own parameter": nn.PReLU,
    "normalisation": lambda: nn.LayerNorm(3, elementwise_affine=False),
    "between samples": lambda: nn.BatchNorm1d(3, affine=False),
    "after another": lambda: nn.Sequential(nn.Tanh(), nn.Softmax(1)),
    "turned": Turned,
}


def model(last, *, block=False):
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid()) if block else nn.Linear(5, 5)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), hidden, nn.ReLU(), nn.Linear(5, 3), last)


def differentiated(own, data, recipe):
    """(dLoss/dz_L, dLoss/d(output)) of the first batch, from plain autograd."""
    x, y = (side.readers(F64, torch.device("cpu"))[0] for side in data)
    rows = list(range(len(x)))
    z = own[:5](x.read(rows))
    out = own[5](z.clone())
    return torch.autograd.grad(nn.functional.cross_entropy(out, y.read(rows)), [z, out])


def sent(own, **settings):
    """(what the output layer of a direct rule sends, the data, the recipe)."""
    settings = {"rule": "dfa", "init": "given", "dtype": F64, **settings}
    recipe, modules, data = prepared(own.double(), (6,), 3, **settings)
    x, y = (side.readers(F64, torch.device("cpu"))[0] for side in data)
    layers = [Layer(recipe, n, module=modules[n]) for n in (1, 2, 3)]
    h, rows = x.read(list(range(len(x)))), list(range(len(x)))
    for layer in layers:
        h = layer.forward(h, (0, 0))
    delta = layers[-1].output_delta(layers[-1].score(h, y.read(rows), len(rows)), (0, 0))
    return layers[-1].emit(1, delta, (0, 0)), data, recipe


@pytest.mark.parametrize("kind", [kind for kind in ELEMENTWISE if kind != "dropout"])
def test_after_elementwise_modules_the_error_is_that_of_z(kind):
    own = model(ELEMENTWISE[kind]())
    found, data, recipe = sent(copy.deepcopy(own))
    assert torch.allclose(found, differentiated(own.double(), data, recipe)[0], atol=1e-14)


@pytest.mark.parametrize("kind", OTHERS)
def test_after_anything_else_it_is_that_of_the_output(kind):
    own = model(OTHERS[kind]())
    found, data, recipe = sent(copy.deepcopy(own))
    assert torch.allclose(found, differentiated(own.double(), data, recipe)[1], atol=1e-14)


def test_the_trial_tells_them_apart_and_leaves_the_model_as_it_was():
    for kind, make in ELEMENTWISE.items():
        layer = split(model(make()), (6,))[3]
        assert layer.plain or layer.z_of == "4", kind
    for kind, make in OTHERS.items():
        assert split(model(make()), (6,))[3].z_of == "", kind
    own = model(Scaled())
    split(own, (6,))
    assert own[5].calls == 0


def test_a_flattened_convolution_is_one_of_them():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten(), nn.Sigmoid())
    network = split(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), head), (1, 4, 4))
    assert network[2].z_of == "2.0"


@pytest.mark.parametrize("rule", ["dfa", "dkp"])
@pytest.mark.parametrize("init", ["given", "aligned"])
def test_an_activation_trains_alike_whatever_its_class(rule, init):
    """With a subclass or in a Sequential, the rule was another one without a word."""
    weights = []
    for kind in ("known", "subclass", "own class", "nested"):
        own = model(ELEMENTWISE[kind](), block=True)
        recipe, modules, data = prepared(own.double(), (6,), 3, rule=rule, init=init, dtype=F64, probe_every=2)
        weights.append(run_serial(recipe, data, modules=modules)[0])
    for other in weights[1:]:
        assert all(torch.allclose(other[name], value, atol=1e-12) for name, value in weights[0].items())


@pytest.mark.parametrize("last", [nn.Tanh, OwnTanh])
def test_an_aligned_start_is_the_jacobian_of_what_the_error_is_of(last):
    """B_2 = dz/dh_2 = W_3, since e already holds the slope of the activation."""
    own = model(last(), block=True)
    recipe, modules, data = prepared(own.double(), (6,), 3, rule="dfa", init="aligned", dtype=F64, max_steps=1)
    trainer = run_serial(recipe, data, modules=modules)[2]
    assert torch.allclose(trainer.layers[1].ends.teacher, own[4].weight, atol=1e-12)
