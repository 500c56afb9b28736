"""A forward's sections in turn do what it does: outputs, gradients, buffers. What a trace would freeze is refused."""

import copy

import pytest
import torch
from forwards import GPT, REFUSED, WORKING

from distfa.core.base.seeding import Seeding
from distfa.errors import ModelError
from distfa.sections.split import divide


def samples(name, shape, rows):
    drawn = torch.Generator().manual_seed(rows)
    if name == "gpt":
        return torch.randint(11, (rows, *shape), generator=drawn)
    return torch.randn(rows, *shape, generator=drawn, dtype=torch.float64)


def compute(model, parts, x):
    """Outputs of parts in turn; gradients come from a backward pass of each part."""
    ends, h = [], x
    with Seeding(model).drawing_from(7):
        for part in parts:
            h = h.detach().requires_grad_() if h.is_floating_point() else h
            ends.append((h, h := part(h)))
    error = torch.ones_like(h)
    for h_in, h_out in reversed(ends):
        h_out.backward(error)
        error = h_in.grad
    return h


@pytest.mark.parametrize("name", WORKING)
def test_the_sections_in_turn_are_the_model_and_hold_its_own_tensors_under_its_keys(name):
    make, shape, layers = WORKING[name]
    torch.manual_seed(0)
    model = make().double()
    network, division = divide(model, shape, tokens=name == "gpt")
    assert len(network) == layers
    for training in (True, False):
        whole, cut = (copy.deepcopy(model).train(training) for _ in range(2))
        parts, x = division.parts(cut), samples(name, shape, 5)
        held = {key: value for part in parts for key, value in part.state_dict(keep_vars=True).items()}
        own = cut.state_dict(keep_vars=True)
        assert held.keys() == own.keys()
        assert all(held[key] is own[key] for key in own)
        assert torch.equal(compute(whole, [whole], x), compute(cut, parts, x))
        for (key, one), other in zip(whole.named_parameters(), cut.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), key
            assert one.grad is None or torch.allclose(one.grad, other.grad, rtol=1e-12, atol=1e-12), key
        for (key, one), other in zip(whole.named_buffers(), cut.buffers(), strict=True):
            assert torch.equal(one, other), key


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_trace_would_freeze_is_refused_with_its_line(kind):
    with pytest.raises(ModelError, match=rf"forwards\.py:\d+ .*{REFUSED[kind]}.*docs/how-to/own-model\.md"):
        divide(kind(), (6,))


def test_a_tied_head_is_refused_with_the_way_out():
    with pytest.raises(ModelError, match=r"'tokens\.weight' is used in its first and in its last .* untied head"):
        divide(GPT(tied=True), (6,), tokens=True)
