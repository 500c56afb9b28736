"""Private training: what a sample can move, what noise is added, and that every engine does the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import in_turn
from runs import assert_same_bits, raw, recipe, run_serial, run_threads
from torch import nn
from zoo import prepared

from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.private import Mechanism
from distfa.core.books.records import StepRecord
from distfa.core.build import build_block
from distfa.core.layer import Layer
from distfa.core.rules import RULES
from distfa.errors import NonFiniteError
from distfa.privacy.key import RunKey
from distfa.privacy.stream import Stream

F64 = torch.float64
CLIP, ROWS = 0.5, 8
SGD = OptimizerConfig(name="sgd", lr=1.0)  # the update is then minus the gradient
PRIVATE = [name for name, rule in RULES.items() if rule.takes_privacy]
KEY = RunKey.of_seed(3)


class Silence:
    """Noise that is off."""

    def normals(self, step, count, part=0):
        return np.zeros(count)


def mechanism(layers, *, clip=CLIP, noise=1.0, rows=ROWS):
    return Mechanism(clip=clip, shares=(clip / math.sqrt(layers),) * layers, noise=noise, rows=rows)


def private(made, **options):
    """A recipe, made private."""
    return replace(made, private=mechanism(len(made.network), **options))


def silent(made):
    return dict.fromkeys(range(1, len(made.network) + 1), Silence())


def streams(made):
    return {layer: Stream(key) for layer, key in subkeys(made).items()}


def subkeys(made):
    return {layer: KEY.of_layer(layer) for layer in range(1, len(made.network) + 1)}


def convolutions():
    """A net of the layers that private training takes, and the shape of a sample."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6, bias=False),
        nn.LayerNorm(6),
        nn.GELU(),
        nn.Linear(6, 5),
    )
    return model, (1, 13, 13)


def sequences():
    """Each sample has positions, whose gradients add up before they are clipped."""
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)), (
        3,
        4,
    )


NETS = {"convolutions": convolutions, "sequences": sequences}


def net(name, **changes):
    """(recipe, modules, data of 12 samples) of one of NETS, or of the perceptron of ``recipe``."""
    if name == "perceptron":
        made = recipe(init="random", optimizer=SGD, **changes)
        return made, None, raw(made, rows=12, test_rows=0)
    torch.manual_seed(4)
    model, shape = NETS[name]()
    model = model.to(changes["dtype"])
    return prepared(model, shape, 5, rows=12, test_rows=0, init="random", optimizer=SGD, **changes)


def gradient(made, modules, data, rows, noise=None):
    """The sum of a step's clipped gradients, over these rows of the data, of all layers as one vector."""
    inputs, targets = data
    chosen = replace(inputs, train=inputs.train[rows]), replace(targets, train=targets.train[rows])
    step = replace(made, max_steps=1, epochs=1, batches=((len(rows),),), order="given")
    _, _, trainer = run_serial(step, chosen, modules=modules, noise=noise or silent(made))
    summed = [parameter.grad.flatten().to(F64) for layer in trainer.layers for parameter in layer.parameters]
    return torch.cat(summed) * made.private.rows


def looped_norms(block, h_in, delta):
    """The norm of each sample's gradient, one sample after the other."""
    found = []
    for n in range(len(h_in)):
        alone = block.forward(h_in[n : n + 1])
        found.append(torch.cat([g.flatten() for g in block.gradients(delta[n : n + 1], alone)]).norm())
    return torch.stack(found)


@pytest.mark.parametrize("name", ["perceptron", *NETS])
def test_the_norms_of_samples_are_those_of_a_loop_over_them(name):
    made, modules, _ = net(name, dtype=F64)
    made = private(made)
    for index in range(1, len(made.network) + 1):
        module, shapes = (modules or {}).get(index), made.network.shapes
        block = build_block(made, index, torch.device("cpu"), module)
        h_in, s = torch.randn(5, *shapes[index - 1], dtype=F64), torch.randn(5, *shapes[index], dtype=F64)
        tape = block.forward(h_in)
        delta = block.start(s, tape)
        expected = looped_norms(block, h_in, delta)
        assert torch.allclose(block.sample_norms(delta, tape), expected, rtol=1e-12, atol=0)


def test_a_layer_without_bias_counts_none():
    made = private(recipe((4, 3, 2), dtype=F64))
    spec = replace(made.network[1], bias=False)
    made = replace(made, network=replace(made.network, layers=(spec, made.network[2])))
    block = build_block(made, 1, torch.device("cpu"), None)
    tape = block.forward(torch.randn(3, 4, dtype=F64))
    delta = torch.randn(3, 3, dtype=F64)
    assert torch.allclose(block.sample_norms(delta, tape), delta.norm(dim=1) * tape.h_in.norm(dim=1), rtol=1e-12)


@in_turn(rule=PRIVATE, how=[("perceptron", 1), ("convolutions", 3), ("sequences", 1), ("perceptron", 4)])
def test_removing_any_one_sample_moves_all_layers_together_by_at_most_clip(rule, how):
    name, micro_batches = how
    made, modules, data = net(name, rule=rule, micro_batches=micro_batches, dtype=torch.float32)
    made = private(made, clip=1e-3)  # so small that every sample is clipped in every layer
    whole = gradient(made, modules, data, np.arange(12))
    moved = [(whole - gradient(made, modules, data, np.delete(np.arange(12), n))).norm().item() for n in range(12)]
    assert max(moved) <= made.private.clip
    assert min(moved) > 0.99 * made.private.clip  # all of it, or the test would see nothing


def test_small_gradients_are_not_clipped_at_all():
    made, modules, data = net("perceptron", rule="bp", dtype=F64)
    plain, _, _ = run_serial(replace(made, max_steps=1, epochs=1, batches=((12,),), order="given"), data)
    wide = private(made, clip=1e6, rows=12)
    start = {key: v for l in range(1, 5) for key, v in Layer(wide, l, noise=Silence()).state().items()}
    plain_gradient = torch.cat([(start[key] - plain[key]).flatten() for key in start]) * 12
    assert torch.allclose(gradient(wide, modules, data, np.arange(12)), plain_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "rows", "parts"), [("perceptron", 0, 1), ("perceptron", 12, 4), ("convolutions", 12, 3)]
)
def test_noise_has_the_same_deviation_in_every_layer_however_many_parts_and_samples(name, rows, parts):
    made, modules, data = net(name, rule="bp", micro_batches=parts, dtype=F64)
    made, chosen = private(made, noise=1.7), np.arange(rows)
    squares = {}
    for seed in range(12):
        drawn = {l: Stream(RunKey.of_seed(seed).of_layer(l)) for l in range(1, len(made.network) + 1)}
        noise = gradient(made, modules, data, chosen, drawn) - gradient(made, modules, data, chosen)
        at = 0
        for layer, spec in enumerate(made.network.layers, start=1):
            squares.setdefault(layer, []).append(noise[at : at + spec.trainable].square())
            at += spec.trainable
        assert at == len(noise)
    for layer, found in squares.items():
        together = torch.cat(found) / (1.7 * CLIP) ** 2
        # chi-squared over n numbers: mean 1, standard deviation sqrt(2 / n)
        assert together.mean().item() == pytest.approx(1.0, abs=4.5 * math.sqrt(2 / len(together))), layer


def test_no_two_layers_and_no_two_steps_share_noise():
    made, _, data = net("perceptron", rule="bp", dtype=F64)
    made = replace(private(made), batches=((0, 0),), order="given", epochs=1)
    weights, _, _ = run_serial(made, data, noise=streams(made))
    once, _, _ = run_serial(replace(made, max_steps=1), data, noise=streams(made))
    start = {key: v for l in range(1, 5) for key, v in Layer(made, l, noise=Silence()).state().items()}
    first = torch.cat([(start[k] - once[k]).flatten() for k in start])
    second = torch.cat([(once[k] - weights[k]).flatten() for k in start])
    together = torch.cat([first, second])
    assert len(together.unique()) == len(together)
    assert (together * ROWS / CLIP).std().item() == pytest.approx(1.0, abs=4.5 / math.sqrt(2 * len(together)))


POISSON = ((5, 0, 9, 1), (0, 7, 2, 12))


@in_turn(rule=PRIVATE, micro_batches=[1, 4], dtype=[F64, torch.float32])
def test_wired_equals_serial_with_empty_and_uneven_batches(rule, micro_batches, dtype):
    made = recipe(rule=rule, micro_batches=micro_batches, dtype=dtype, check_finite=True)
    made = replace(private(made), batches=POISSON, order="given", epochs=2)
    data = raw(made, rows=36)
    serial, records, _ = run_serial(made, data, noise=streams(made))
    wired, wired_records = run_threads(made, data, transport="loopback", subkeys=subkeys(made))
    assert_same_bits(serial, wired)
    assert records == wired_records
    steps = [record for record in records if isinstance(record, StepRecord)]
    assert [record.rows for record in steps] == [5, 0, 9, 1, 0, 7, 2, 12]


def test_the_loss_that_is_reported_is_the_mean_over_the_rows_drawn():
    made = recipe(rule="bp", dtype=F64, epochs=1)
    plain = replace(made, batches=((5,),), order="given")
    data = raw(made, rows=5)
    _, (expected, *_), _ = run_serial(plain, data)
    _, (found, *_), _ = run_serial(replace(private(plain)), data, noise=streams(made))
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


def test_a_run_that_goes_on_at_a_cut_draws_the_same_noise():
    made = replace(private(recipe(rule="dfa", dtype=F64)), batches=POISSON, order="given", epochs=2)
    data = raw(made, rows=36)
    whole, _, _ = run_serial(made, data, noise=streams(made))
    _, _, first = run_serial(replace(made, max_steps=3), data, noise=streams(made))
    state = first.state_dict()
    _, _, second = run_serial(replace(made, max_steps=1), data, noise=streams(made))
    second.recipe = made
    second.load_state_dict(state)
    list(second.run())
    assert_same_bits(whole, second.state())


def test_a_sample_whose_gradient_is_not_finite_ends_the_run():
    made, modules, data = net("perceptron", rule="bp", dtype=torch.float32, check_finite=False)
    data[0].train[3] = np.nan
    with pytest.raises(NonFiniteError, match=r"the gradient of a sample is NaN or infinite"):
        gradient(private(made), modules, data, np.arange(12))


def test_shares_that_make_more_than_the_whole_are_refused():
    with pytest.raises(ValueError, match=r"make 1.4.* together, more than clip 1"):
        Mechanism(clip=1.0, shares=(1.0, 1.0), noise=1.0, rows=8)


def test_a_private_layer_without_noise_is_refused():
    with pytest.raises(ValueError, match=r"layer 1 of a private run was not given its noise"):
        Layer(private(recipe()), 1)


def test_no_rule_whose_feedback_learns_takes_privacy_even_by_inheritance():
    for name, rule in RULES.items():
        made = rule(recipe(rule=name))
        learns = any(made.learns_at_origin(b) or made.learns_at_learner(b) for b in made.network.boundaries)
        assert not (learns and rule.takes_privacy)
    heir = type("Heir", (RULES["dfa"],), {})
    assert not heir.takes_privacy
