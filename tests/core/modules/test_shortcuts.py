"""The shortcut of a layer is what its modules let through without a trained weight, or the layer has none."""

import pytest
import torch
from streams import Block, pooled, subsampled, turned, unchanged
from torch import nn

from distfa.core.modules.shortcuts import Blocked, find_shortcut
from distfa.core.modules.split import describe_layers, layer_module


def found(*modules, shape=(4, 6, 6)):
    part = layer_module([(str(number), module) for number, module in enumerate(modules)])
    return find_shortcut(part, describe_layers([part], shape)[1], "layer 2")


class Sum(nn.Module):
    """f(x) + branch(x)."""

    def __init__(self, f, branch):
        super().__init__()
        self.f, self.branch = f, branch

    def forward(self, x):
        return self.f(x) + self.branch(x)


class Scaled(nn.Module):
    """A trained number on the shortcut, as it is or made into something else first."""

    def __init__(self, made=lambda scale: scale):
        super().__init__()
        self.made, self.scale, self.linear = made, nn.Parameter(torch.ones(1)), nn.Linear(6, 6)

    def forward(self, x):
        return self.made(self.scale) * x + self.linear(x)


@pytest.mark.parametrize(
    ("shortcut", "after"), [(pooled, 4), (subsampled, 8), (turned, 8)], ids=["pooled", "subsampled", "turned"]
)
def test_it_is_the_matrix_of_the_function_on_it(shortcut, after):
    matrix = found(Block(4, after, shortcut, stride=2)).to_dense()
    expected = torch.autograd.functional.jacobian(lambda x: shortcut(x).flatten(), torch.zeros(1, 4, 6, 6))
    torch.testing.assert_close(matrix, expected.flatten(1))


def test_that_of_several_blocks_is_their_product_and_an_identity_is_no_matrix():
    assert found(Block(4, 4), Block(4, 4)) is None
    both = found(Block(4, 4), Block(4, 8, turned, stride=2), nn.AvgPool2d(3), nn.Flatten()).to_dense()
    expected = torch.autograd.functional.jacobian(lambda x: turned(x).mean((2, 3))[0], torch.zeros(1, 4, 6, 6))
    torch.testing.assert_close(both, expected.flatten(1), rtol=1e-5, atol=1e-7)


def test_a_weight_that_is_frozen_is_part_of_it():
    turn = nn.Linear(6, 5, bias=False).requires_grad_(False)
    matrix = found(Sum(turn, nn.Linear(6, 5)), shape=(6,))
    torch.testing.assert_close(matrix.to_dense(), turn.weight)


def test_dropout_may_be_in_a_branch():
    assert found(Sum(unchanged, nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))), shape=(6,)) is None


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ([nn.Linear(6, 6), nn.LayerNorm(6)], "no path"),
        ([Scaled()], "no path"),
        ([Sum(unchanged, nn.Linear(6, 6)), nn.ReLU()], "changes with the data"),
        ([Sum(unchanged, nn.Linear(6, 6)), nn.LayerNorm(6, elementwise_affine=False)], "changes with the data"),
        ([Sum(unchanged, nn.Linear(6, 6)), nn.Dropout(0.5)], "changes with the data"),
        ([Sum(torch.square, nn.Linear(6, 6))], "changes with the data"),
        ([Scaled(torch.exp)], "changes with the data"),
        ([Sum(lambda x: x.clamp(-10, 10), nn.Linear(6, 6))], "changes with the data"),
        ([Sum(lambda x: x if x.sum() > 0 else 2 * x, nn.Linear(6, 6))], "changes with the data"),
        ([Sum(nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.ReLU()), nn.Linear(6, 6))], "frozen branch"),
        ([Sum(lambda x: x - x.mean(0), nn.Linear(6, 6))], "mixes samples"),
    ],
)
def test_a_layer_without_one_says_why(modules, why):
    with pytest.raises(Blocked, match=why):
        found(*modules, shape=(6,))
