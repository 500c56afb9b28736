"""The trial of a layer: what cannot be seeded or kept is refused by name before the start; what can be is let in."""

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from alive import LIVE, WIDTH, Joining, around
from runs import run_serial
from torch import nn
from zoo import prepared

from distfa.errors import LayerError, ModelError
from distfa.sections.split import split


class Unseeded(nn.Linear):
    def forward(self, x):
        return super().forward(x) * float(np.random.default_rng().uniform())


CALLS = []


class Elsewhere(nn.Linear):
    """Counts in a variable of its file."""

    def forward(self, x):
        CALLS.append(1)
        return super().forward(x) * len(CALLS)


class OnlyInEvaluation(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (1 if self.training else int.from_bytes(os.urandom(2), "little"))


@pytest.mark.parametrize("kind", [Unseeded, Elsewhere, OnlyInEvaluation])
def test_what_a_run_can_neither_seed_nor_keep_is_refused_with_the_way_out(kind):
    with pytest.raises(
        ModelError, match=rf"layer 2 \(2 {kind.__name__}, 3 ReLU\) returns a different output.*as an attrib"
    ):
        split(around(kind(WIDTH, WIDTH)))


class Handing(nn.Linear):
    """Holds something that changes and that no checkpoint can keep."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.then = None

    def forward(self, x):
        self.then = lambda: None
        return super().forward(x)


class Locked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return super().forward(x)


class LateParameter(nn.Linear):
    def forward(self, x):
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(x.shape[1:]))
        return super().forward(x) * self.scale


class LateBuffer(nn.Linear):
    def forward(self, x):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(x.shape[1:]))
        return super().forward(x) * self.scale


class ShapedByMode(nn.Linear):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x)[:, :2]


class ChangedInPlace(nn.Linear):
    """torch's own backward would refuse it; saved-tensor hooks switch that check off."""

    def forward(self, x):
        return super().forward(x).exp().mul_(2)


class Replacing(nn.Linear):
    def forward(self, x):
        self.weight.data = nn.functional.normalize(self.weight.data, dim=1)
        return super().forward(x)


class Thawing(nn.Linear):
    def forward(self, x):
        self.bias.requires_grad_(False)
        return super().forward(x)


class Keeping(nn.Linear):
    """Reads its last output with its graph."""

    state = None

    def forward(self, x):
        out = super().forward(x)
        self.state = out if self.state is None else out + 0.1 * self.state.mean()
        return self.state


class CountingBackward(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norms = []

    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda g: self.norms.append(float(g.norm())))
        return y


class Growing(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("cache", torch.zeros(0, WIDTH))

    def forward(self, x):
        self.cache = torch.cat([self.cache, x.detach()])
        return super().forward(x)


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


class Opaque(nn.Linear):
    """Counts in an object that nothing can look into."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.slots = Slotted()

    def forward(self, x):
        self.slots.n += 1
        return super().forward(x)


REFUSED = {
    Replacing: r"layer 2 .*changes its parameter '2.weight' in its forward",
    Thawing: r"parameter '2.bias' has a different requires_grad after a forward pass; set it before training",
    Keeping: r"layer 2 .*keeps a tensor with its graph .*store it with detach\(\)",
    CountingBackward: r"layer 2 .*changes its state in the backward pass.*change it in the forward",
    Growing: r"buffer '2.cache' changes its shape from \(0, 6\) to \(2, 6\).*persistent=False",
    Opaque: r"attribute '2.slots' changes in the forward pass, and '2.slots' is a Slotted",
    ChangedInPlace: r"layer 2 .*its forward pass changes in place .* a tensor of shape \(2, 6\).*torch refuses, too",
    Handing: r"attribute '2.then' changes in the forward pass, and '2.then' is a function.*make it a buffer",
    Locked: r"layer 2 .*attribute '2.lock' \(lock\) cannot be copied.*create it in the forward",
    LateParameter: r"layer 2 .*creates '2.scale' in its first forward pass.*run one batch through the model first",
    LateBuffer: r"layer 2 .*creates '2.scale' in its first forward pass.*run one batch through the model first",
    ShapedByMode: r"layer 2 .*\(6,\) in training but \(2,\) in evaluation",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_a_layers_state_is_refused_by_name(kind):
    with pytest.raises(ModelError, match=REFUSED[kind]):
        split(around(kind(WIDTH, WIDTH)))


@pytest.mark.parametrize("kind", [LateParameter, LateBuffer])
def test_the_way_out_of_what_is_made_late_is_one_batch(kind):
    model = around(kind(WIDTH, WIDTH))
    model(torch.zeros(2, WIDTH))
    assert len(split(model)) == 3


class Patient(Locked):
    """A lock that copies do not take along."""

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lock = threading.Lock()


class LazyCache(nn.Linear):
    """Makes a table that is in no state_dict when it first needs it."""

    def forward(self, x):
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.arange(float(x.shape[-1])), persistent=False)
            self.constant, self.kind = torch.ones(1), torch.float32
        return super().forward(x) + self.table * self.constant


@pytest.mark.parametrize("kind", [Patient, LazyCache])
def test_what_can_be_copied_or_made_again_is_let_in(kind):
    r, modules, data = prepared(around(kind(WIDTH, WIDTH)), (WIDTH,), 3, rule="fa", max_steps=2)
    weights, _, _ = run_serial(r, data, modules=modules)
    assert not torch.equal(weights["2.weight"], modules[2][0].weight)


def test_a_module_that_kept_its_last_output_can_be_copied():
    model = around(LIVE["Remembering"]())
    model(torch.randn(3, WIDTH))
    assert model[2].last.grad_fn is not None
    assert len(split(model)) == 3


class Sharing(nn.Linear):
    def __init__(self, shared):
        super().__init__(WIDTH, WIDTH)
        self.shared = shared

    def forward(self, x):
        if "n" in self.shared:
            self.shared["n"] += 1
        return super().forward(x)


def test_an_object_of_two_layers_may_be_read_but_not_changed():
    shared = {"width": WIDTH}
    assert len(split(nn.Sequential(Sharing(shared), nn.ReLU(), Sharing(shared), nn.Linear(WIDTH, 3)), (WIDTH,))) == 3
    shared["n"] = 0
    with pytest.raises(ModelError, match=r"'0.shared' of layer 1 changes .*belongs to layer 2: .*into one module"):
        split(nn.Sequential(Sharing(shared), nn.ReLU(), Sharing(shared), nn.Linear(WIDTH, 3)), (WIDTH,))


def test_a_part_that_changes_late_ends_the_run_by_name():
    class Late(Joining):
        def forward(self, x):
            if self.training and self.calls == 3:
                self.first = nn.Linear(WIDTH, WIDTH)
            return super().forward(x)

    r, modules, data = prepared(around(Late()), (WIDTH,), 3, rule="bp", epochs=4)
    with pytest.raises(LayerError, match=r"layer 2, step 3: module '2.first': the module creates, removes or replaces"):
        run_serial(r, data, modules=modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_numbers_that_a_forward_changes_late_end_the_run_by_name(dtype):
    class Shrinking(Joining):
        def forward(self, x):
            if self.training and self.calls == 3:
                self.first.weight.data.mul_(0.9)
            return super().forward(x)

    model = around(Shrinking())
    r, modules, data = prepared(model, (WIDTH,), 3, rule="bp", epochs=4, mixed=dtype is torch.bfloat16)
    with pytest.raises(LayerError, match=r"step 3: parameter '2.first.weight' has other numbers after a forward pass"):
        run_serial(r, data, modules=modules)
    model[2].first.requires_grad_(False)
    run_serial(prepared(model, (WIDTH,), 3, rule="bp", epochs=4)[0], data, modules=modules)


class Neighbours(nn.Linear):
    """A sparse buffer, as graphs have."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("adjacency", torch.eye(WIDTH).to_sparse())

    def forward(self, x):
        return super().forward((self.adjacency @ x.T).T)


def test_a_sparse_buffer_is_a_constant_and_a_compiled_module_is_refused_as_that():
    assert len(split(around(Neighbours(WIDTH, WIDTH)))) == 3
    with pytest.raises(ModelError, match=r"module '2' is compiled .*pass the module it was made from"):
        split(around(torch.jit.trace(nn.Linear(WIDTH, WIDTH), torch.zeros(2, WIDTH))))


class Counted(nn.Linear):
    forwards = 0

    def forward(self, x):
        type(self).forwards += 1
        return super().forward(x)


def test_a_trial_makes_at_most_eight_forwards():
    Counted.forwards = 0
    split(around(Counted(WIDTH, WIDTH)))
    assert 2 <= Counted.forwards <= 8


@pytest.mark.parametrize("name", LIVE)
def test_all_that_requires_a_gradient_is_trained_whatever_the_trial_used(name):
    model = around(LIVE[name]())
    network = split(model)
    assert network[2].trained == tuple(f"2.{name}" for name, p in model[2].named_parameters() if p.requires_grad)
    assert network[2].unreached == ()


class Waiting(nn.Module):
    """From its fourth batch on, a matrix of its own mixes numbers on the way back: no trial has seen it do so."""

    def __init__(self):
        super().__init__()
        self.inner, self.matrix, self.calls = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH, WIDTH)), 0

    def forward(self, x):
        self.calls += self.training
        return self.inner(x) if self.calls < 4 else self.inner(x) @ self.matrix


def test_feedback_that_a_parameter_bypasses_later_ends_the_run_by_name():
    r, modules, data = prepared(around(Waiting()), (WIDTH,), 3, rule="fa", epochs=4)
    with pytest.raises(LayerError, match=r"layer 2, step 3: the error went back through '2.matrix' itself"):
        run_serial(r, data, modules=modules)
    run_serial(replace(r, rule="bp"), data, modules=modules)
    run_serial(replace(r, rule="dfa"), data, modules=modules)
