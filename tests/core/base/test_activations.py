"""Activations against autograd, and the constants the initialisation uses."""

import numpy as np
import pytest
import torch

from distfa.core.base.activations import NAMES, Activation


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_autograds(name):
    activation = Activation(name=name, slope=0.2)
    z = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    s = torch.randn(6, 5, dtype=torch.float64)
    h = activation.module()(z)
    (expected,) = torch.autograd.grad(h, z, s)
    assert torch.equal(activation.forward(z.detach()), h.detach())
    assert torch.equal(activation.backward(s, z.detach(), h.detach()), expected)


@pytest.mark.parametrize("name", NAMES)
def test_mean_slope_is_the_mean_under_a_standard_normal(name):
    activation = Activation(name=name, slope=0.2)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    slope = activation.backward(torch.ones_like(z), z, activation.forward(z))
    # trapezoid on a grid of 6e-5: the kink of ReLU costs up to one grid step of density
    assert torch.trapezoid(slope * density, z).item() == pytest.approx(activation.mean_slope, abs=3e-5)


@pytest.mark.parametrize("name", NAMES)
def test_homogeneous_says_whether_slope_times_input_is_output(name):
    activation = Activation(name=name, slope=0.2)
    z = torch.linspace(-3, 3, 101, dtype=torch.float64)
    h = activation.forward(z)
    holds = torch.allclose(activation.backward(z, z, h), h, rtol=0, atol=1e-15)
    assert holds == activation.homogeneous
