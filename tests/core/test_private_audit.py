"""An attack on private training: tiny models, a sample made to be found, and faults planted that it must find.

Every step is a run of its own, since at this rate the weights stay where they were: what is attacked is one step in
which everyone takes part, so that epsilon is that of the Gaussian mechanism and its noise is small.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import recipe, run_serial
from scipy.special import betaincinv

from distfa.core import layer as layers_file
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.private import Mechanism
from distfa.core.modules.linear_block import LinearBlock
from distfa.core.noising import Noising
from distfa.privacy.key import RunKey
from distfa.privacy.stream import Stream
from distfa.runtime.job import RawInputs, RawTargets

CLIP, NOISE, DELTA, CLAIM = 1e-3, 3.75, 1e-5, 1.0
STEPS, SURE = 1000, 0.975  # in each world; of each of two bounds


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def at_most(hits, tries):
    """The upper Clopper-Pearson bound of a probability."""
    return 1.0 if hits == tries else float(betaincinv(hits + 1, tries - hits, SURE))


def bound_epsilon(without, with_canary):
    """A lower bound of epsilon: the threshold is chosen on one half of the runs and judged on the other."""
    best = 0.0
    for a, b in ((without, with_canary), (with_canary, without)):
        for sign in (1, -1):
            chosen, judged = (sign * a[::2], sign * b[::2]), (sign * a[1::2], sign * b[1::2])
            threshold = max(np.quantile(chosen[0], np.linspace(0.9, 1.0, 40)), key=lambda t: epsilon_at(t, *chosen))
            best = max(best, epsilon_at(threshold, *judged))
    return best


def epsilon_at(threshold, a, b):
    false = at_most(int((a > threshold).sum()), len(a))
    true = 1 - at_most(int((b <= threshold).sum()), len(b))
    return math.log((true - DELTA) / false) if true > DELTA else 0.0


def worlds(count, parts):
    """(recipe, data without the canary, data with it): the canary is 0, so that only biases learn from it."""
    sizes = (2,) * (count + 1)
    made = recipe(
        sizes,
        rule="dfa",
        dtype=torch.float64,
        activation="tanh",
        micro_batches=parts,
        optimizer=OptimizerConfig(name="sgd", lr=1e-9),
    )
    rows = max(1, parts)
    shares = (CLIP / math.sqrt(count),) * count
    made = replace(
        made,
        private=Mechanism(clip=CLIP, shares=shares, noise=NOISE, rows=rows),
        order="given",
        epochs=1,
        max_steps=STEPS,
    )
    x, y = np.zeros((rows + 1, 2)), np.zeros(rows + 1, np.int64)
    x[:rows] = 1.0
    return made, *(data(x[:n], y[:n]) for n in (rows, rows + 1))


def data(x, y):
    one = np.ones(1)
    return RawInputs(train=x, test=x[:0], mean=0 * one, std=one), RawTargets(train=y, test=y[:0])


class Silence:
    def normals(self, step, count, part=0):
        return np.zeros(count)


def steps_of(made, given, noise, steps):
    """The gradient of every step, (steps, numbers)."""
    inputs, targets = given
    rows = len(inputs.train)
    everyone = replace(inputs, train=np.tile(inputs.train, (steps, 1)))
    labels = replace(targets, train=np.tile(targets.train, steps))
    made = replace(made, max_steps=steps, batches=((rows,) * steps,))
    found = []
    original = layers_file.Layer.update

    def update(self, step, lr):
        halves = original(self, step, lr)
        found.append(torch.cat([p.grad.flatten() for p in self.parameters]))
        return halves

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers_file.Layer, "update", update)
        run_serial(made, (everyone, labels), noise=noise)
    count = len(made.network)
    # layers make their updates from the top
    return torch.stack([torch.cat(found[at : at + count][::-1]) for at in range(0, len(found), count)]).numpy()


def attack(count, parts):
    """A lower bound of epsilon, by all that an attacker may look at who knows everything but whether it was there."""
    made, without, with_canary = worlds(count, parts)
    numbers = range(1, count + 1)
    silent = dict.fromkeys(numbers, Silence())
    direction = steps_of(made, with_canary, silent, 1)[0] - steps_of(made, without, silent, 1)[0]
    seen = []
    for number, given in enumerate((without, with_canary)):
        key = RunKey.of_seed(number)
        found = steps_of(made, given, {l: Stream(key.of_layer(l)) for l in numbers}, STEPS)
        first = found[:, :6], direction[:6]  # W and b of the first layer
        seen.append([found @ direction, first[0] @ first[1], (found**2).sum(1)])
    return max(bound_epsilon(a, b) for a, b in zip(*seen, strict=True))


def test_the_claim_is_that_of_the_gaussian_mechanism():
    mu = 1 / NOISE
    assert normal_cdf(mu / 2 - CLAIM / mu) - math.exp(CLAIM) * normal_cdf(-mu / 2 - CLAIM / mu) == pytest.approx(
        DELTA, rel=0.2
    )


@pytest.mark.slow
@pytest.mark.parametrize(("count", "parts"), [(36, 1), (2, 36), (2, 1)])
def test_no_attack_finds_more_than_is_claimed(count, parts):
    assert attack(count, parts) <= CLAIM


class ByShare(Noising):
    """Noise of each layer's own share, without the factor for layers."""

    def __init__(self, mechanism, index, noise):
        super().__init__(mechanism, index, noise)
        self._deviation *= mechanism.shares[index - 1] / mechanism.clip


class ByPart(Noising):
    """1/M of the noise in each of M = 36 micro-batches."""

    def __init__(self, mechanism, index, noise):
        super().__init__(mechanism, index, noise)
        self._deviation /= math.sqrt(36)


class ByDrawnRows(Noising):
    """Divided by the rows that were drawn."""

    rows = 0

    def clip(self, delta, norms, *, step):
        self.rows += len(delta)
        return super().clip(delta, norms, step=step)

    def add_noise(self, parameters, *, step, empty):
        super().add_noise(parameters, step=step, empty=empty)
        for parameter in parameters:
            parameter.grad /= self.rows
        self.rows = 0


class NotTheFirst(Noising):
    """One layer without noise."""

    def __init__(self, mechanism, index, noise):
        super().__init__(mechanism, index, noise)
        self._deviation *= index > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "count", "parts"), [(ByShare, 36, 1), (ByPart, 2, 36), (ByDrawnRows, 2, 1), (NotTheFirst, 2, 1)]
)
def test_the_attack_finds_planted_faults(monkeypatch, mutant, count, parts):
    monkeypatch.setattr(layers_file, "Noising", mutant)
    assert attack(count, parts) > CLAIM


@pytest.mark.slow
def test_the_attack_finds_a_bias_that_was_left_out_of_the_norm(monkeypatch):
    def norms(self, delta, tape):
        return delta.norm(dim=1) * tape.h_in.norm(dim=1)

    monkeypatch.setattr(LinearBlock, "sample_norms", norms)
    assert attack(2, 1) > CLAIM
