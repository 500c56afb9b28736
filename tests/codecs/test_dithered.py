"""int4sr rounds by chance, right on average, and the chance follows from the signal alone."""

import numpy as np
import pytest
import torch
from runs import assert_same_bits, recipe, run_serial, run_threads

from distfa.codecs import CODECS, carry

INT4SR = CODECS["int4sr"]


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_what_is_decoded_is_what_was_encoded(fraction, sign):
    """Rounded to nearest, all of them would be 0 or all 1."""
    count = 100_000
    signal = torch.full((1, count), sign * fraction)
    signal[0, 0] = 7  # so that the scale is 1
    decoded = carry(INT4SR, signal)[0, 1:]
    assert set(decoded.tolist()) == {0.0, float(sign)}
    deviation = (fraction * (1 - fraction) / count) ** 0.5
    assert decoded.mean().item() == pytest.approx(sign * fraction, abs=5 * deviation)


def test_levels_themselves_are_not_rounded():
    signal = torch.arange(-7.0, 8.0).repeat(40, 1)
    assert torch.equal(carry(INT4SR, signal), signal)


def test_a_signal_has_one_payload_on_every_machine():
    signal = torch.linspace(-1, 1, 22).reshape(2, 11)
    scales = np.array([1, 1], np.float32) / np.float32(7)
    assert INT4SR.encode(signal).tobytes() == scales.tobytes() + bytes.fromhex("d9e9eafb0b0c505161727304")


def test_another_signal_is_rounded_by_another_chance():
    """The same fractions at other scales of 2 give the same quotients, and so the same levels."""
    signal = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    other = signal.clone()
    other[3, 49] += 1e-3
    levels, doubled, others = (carry(INT4SR, x)[:3] / x[:3].amax(1, keepdim=True) for x in (signal, 2 * signal, other))
    assert torch.equal(levels, doubled)
    assert not torch.equal(levels, others)


@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_a_run_equals_the_serial_run(rule):
    r = recipe(rule=rule, micro_batches=2)
    options = {"activations": "int4", "errors": "int4sr"}
    assert_same_bits(run_threads(r, transport="loopback", **options)[0], run_serial(r, **options)[0])
