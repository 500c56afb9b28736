"""A private run before it starts: what cannot be private is refused, the noise is solved for, the samples are drawn."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from distfa.core import rules
from distfa.core.base.model import Network
from distfa.core.base.order import count_steps, epoch_ends
from distfa.core.base.private import Mechanism
from distfa.data import Dataset
from distfa.data.given_order import GivenOrder
from distfa.errors import DataError, ModelError, SpecError
from distfa.intake.subject import Subject
from distfa.privacy.accountant import Accountant, solve_noise
from distfa.privacy.key import RunKey
from distfa.privacy.sampling import draw_batches
from distfa.privacy.stream import Stream
from distfa.settings import GIVEN, RunSpec

# Modules whose output for a sample depends on that sample alone, and which draw nothing.
_KEEP_SAMPLES_APART = frozenset(
    {
        *(nn.Sequential, nn.Identity, nn.Flatten, nn.Linear),
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
        *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softsign),
    }
)
_INSTEAD = (
    (nn.modules.batchnorm._NormBase, "it normalises each sample by the others of its batch; use nn.GroupNorm"),
    (
        nn.modules.dropout._DropoutNd,
        "it drops numbers by a sample's place in the batch, which others decide; remove it",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Private:
    """A private run, ready to start.

    Attributes:
        key: Its secret key.
        dataset: Its samples in the order they were drawn.
        mechanism: What layers do.
        accountant: What it reveals, step by step.
        samples: N.
        seeded: Whether everyone who knows the seed knows the key, so that nothing is private.
    """

    key: RunKey = field(repr=False)
    dataset: Dataset = field(repr=False)
    mechanism: Mechanism
    accountant: Accountant
    samples: int
    seeded: bool

    def subkeys(self) -> Mapping[int, bytes]:
        """The key of every layer's noise."""
        return {layer: self.key.of_layer(layer) for layer in range(1, len(self.mechanism.shares) + 1)}

    def epsilon(self, steps: int) -> float | None:
        """What so many steps reveal; None of a run that is not private, whose figure would mislead."""
        return None if self.seeded else self.accountant.after(steps)

    def claim(self, steps: int) -> dict[str, Any]:
        """What a reader of the result must know, after so many steps."""
        found, made = self.accountant, self.accountant.after(steps)
        how = (
            f"Poisson sampling, {self.samples:,} samples, {steps:,} steps of {self.mechanism.rows:,} expected rows, "
            f"noise {found.noise:.4g}, clip {self.mechanism.clip:g}"
        )
        claim = f"epsilon {math.ceil(made * 100) / 100:.2f} at delta {found.delta:g}"
        said = f"not private, as noise and samples are drawn from the seed (else {claim})" if self.seeded else claim
        return {
            "private": not self.seeded,
            "epsilon": self.epsilon(steps),
            "delta": found.delta,
            "noise": found.noise,
            "clip": self.mechanism.clip,
            "rate": found.rate,
            "samples": self.samples,
            "claim": f"{said}: {how}",
        }


def make_private(spec: RunSpec, subject: Subject, dataset: Dataset, key: RunKey) -> Private:
    """What a private run needs.

    Args:
        spec: The run's.
        subject: What is trained.
        dataset: What it trains on.
        key: Its secret key.

    Raises:
        DataError: How the data are read depends on the samples.
        ModelError: A module may mix samples.
        SpecError: A setting rules privacy out, or the budget is too small for a single step.
    """
    samples, privacy = len(dataset.train_x), spec.privacy
    _check_settings(spec, subject.network, samples)
    _check_data(dataset)
    _check_modules(spec, subject)
    plain = spec.recipe(subject.network)
    steps, rate = count_steps(plain, samples), spec.batch_size / samples
    noise = privacy.noise
    if noise is None:
        noise = solve_noise(privacy.epsilon or math.inf, rate=rate, delta=privacy.delta, steps=steps)
    accountant = Accountant(noise=noise, rate=rate, delta=privacy.delta, steps=steps)
    if privacy.epsilon is not None and (within := accountant.steps_within(privacy.epsilon)) < steps:
        if not within:
            raise SpecError(
                f"privacy.epsilon is {privacy.epsilon:g}, but a single step with privacy.noise {noise:g} exceeds it; "
                "set more noise, or leave privacy.noise out to have it solved for"
            )
        steps, accountant = within, Accountant(noise=noise, rate=rate, delta=privacy.delta, steps=within)
    drawn = draw_batches(Stream(key.of_sampling()), samples=samples, expected=spec.batch_size, steps=steps)
    starts = [0, *(end for end in epoch_ends(plain, samples) if end < steps), steps]
    epochs = [drawn[start:end] for start, end in pairwise(starts)]
    order = GivenOrder(
        tuple(np.concatenate(epoch) for epoch in epochs), tuple(tuple(map(len, epoch)) for epoch in epochs)
    )
    return Private(
        key=key,
        dataset=dataclasses.replace(dataset, order=order, fixed=dataclasses.replace(dataset.reading, seen=None)),
        mechanism=Mechanism(
            clip=float(privacy.clip or 0.0),
            shares=_shares(spec, subject.network),
            noise=noise,
            rows=spec.batch_size,
        ),
        accountant=accountant,
        samples=samples,
        seeded=privacy.seeded,
    )


def _shares(spec: RunSpec, network: Network) -> tuple[float, ...]:
    """C_l of every layer, whose squares add up to clip^2."""
    parts = [1 if spec.privacy.shares == "equal" else layer.trainable for layer in network.layers]
    return tuple(float(spec.privacy.clip or 0.0) * math.sqrt(part / sum(parts)) for part in parts)


def _check_settings(spec: RunSpec, network: Network, samples: int) -> None:
    if spec.privacy.delta >= 1 / samples:
        raise SpecError(
            f"privacy.delta is {spec.privacy.delta:g}, but the training set has {samples:,} samples: publishing one of "
            f"them outright would keep to that; set it below {1 / samples:.1g}"
        )
    if spec.batch_size > samples:
        raise SpecError(
            f"batch_size is {spec.batch_size:,}, but the training set has {samples:,} samples; in private training it "
            "is the number expected in a batch, so set it to that or less"
        )
    if rules.build_rule(spec.recipe(network)).ever_renews:
        raise SpecError(
            f"init is {spec.init!r}, for which rule {spec.rule!r} would take the feedback of this model from samples, "
            "without noise; set init: random, or use a hop-by-hop rule"
        )
    attached = spec.engine == "ray" and os.environ.get("RAY_ADDRESS")
    if attached and not spec.privacy.seeded:
        raise SpecError(
            f"RAY_ADDRESS is {attached!r}, and keys of a private run would go to the layers over Ray, which may be "
            "plain text between machines; unset it to train on this machine, or use engine: serial"
        )


def _check_data(dataset: Dataset) -> None:
    if dataset.measured:
        raise DataError(
            f"data set {dataset.name!r} is normalised by its samples' own mean ({dataset.mean[0]:.4g}) and standard "
            f"deviation ({dataset.std[0]:.4g}), which are not private; set data.mean and data.std to figures from "
            "elsewhere, such as the middle and half of the range of values"
        )
    if dataset.tokens is not None:
        raise DataError(
            f"data set {dataset.name!r} has tokens, whose vocabulary is made from its samples, which is not private; "
            "private training takes numbers only"
        )


def _check_modules(spec: RunSpec, subject: Subject) -> None:
    if spec.model.name == GIVEN:
        raise SpecError(
            "private training works from the command line only so far; give the model as package.module:function "
            "(distfa train --model), with its settings in a spec"
        )
    if subject.model is None:
        return
    for name, module in subject.model.named_modules():
        if (why := next(_may_mix(module), None)) is not None:
            raise ModelError(f"module {name!r} ({type(module).__name__}) cannot be private: {why}")


def _may_mix(module: nn.Module) -> Iterator[str]:
    """Why the output for a sample may depend on other samples, or on its place among them."""
    yield from (why for kind, why in _INSTEAD if isinstance(module, kind))
    if isinstance(module, nn.Flatten) and module.start_dim < 1:
        yield "it flattens the axis of samples; set start_dim to 1"
    if type(module) not in _KEEP_SAMPLES_APART:
        yield (
            "distfa does not know that it keeps samples apart, without which clipping bounds nothing; use modules of "
            "torch.nn in a Sequential: Linear, Conv, pooling, GroupNorm, LayerNorm and activations"
        )
