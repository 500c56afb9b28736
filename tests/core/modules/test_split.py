"""Splitting a Sequential into layers."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

import distfa
from distfa import models
from distfa.core.base.activations import Activation
from distfa.core.base.model import plain_network
from distfa.errors import ModelError
from distfa.sections.split import split


def test_a_layer_is_a_linear_and_the_activation_after_it():
    network = split(
        nn.Sequential(nn.Linear(8, 5), nn.LeakyReLU(0.3), nn.Linear(5, 4, bias=False), nn.Linear(4, 3), nn.Tanh())
    )
    assert network.sizes == (8, 5, 4, 3)
    assert [layer.key for layer in network.layers] == ["0", "2", "3"]
    assert [layer.bias for layer in network.layers] == [True, False, True]
    assert [layer.activation for layer in network.layers] == [
        Activation(name="leaky_relu", slope=0.3),
        Activation(),
        Activation(name="tanh"),
    ]


def test_names_and_groups_keep_the_models_own_keys():
    model = nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            first=nn.Sequential(nn.Linear(4, 3), nn.GELU()),
            out=nn.Linear(3, 2),
            end=nn.Identity(),
        )
    )
    network = split(model)
    assert {f"{layer.key}.weight" for layer in network.layers} < set(model.state_dict())
    assert network[1].activation.name == "gelu"


def test_an_mlp_splits_back_into_itself():
    network = plain_network((6, 5, 4, 3), activation=Activation(name="relu"))
    assert split(network.module()) == network
    assert network.module()(torch.zeros(2, 6)).shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear, r"the model is a type, not a torch\.nn\.Module"),
        (nn.Linear(3, 2), r"a Linear does not say which shape a sample has; pass it"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)), r"module '1' takes 3 features, but module '0' .* returns 2"),
        (nn.Sequential(nn.Identity()), r"has no module with parameters"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(model, message):
    with pytest.raises(ModelError, match=message):
        split(model)


def cells(network):
    """The table's rows, cell by cell; columns are two blanks apart."""
    header, *rows = [re.split(r" {2,}", line) for line in str(network).splitlines()]
    assert header == ["layer", "modules", "parameters", "in", "out", "bytes up per sample"]
    return rows


def test_the_table_of_convolutions_and_a_residual_block():
    """Conv2d 3*32*9 + 32 and BatchNorm 2*32; Linear 64*256*100 + 100; a signal has 4 bytes a number."""
    first = nn.Conv2d(3, 32, 3, padding=1)
    first.bias.requires_grad_(False)
    block = models.ResidualBlock(32, 64)
    stem = [first, nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*stem, block, nn.Flatten(), nn.Linear(64 * 256, 100))
    inside = sum(p.numel() for p in block.parameters())
    modules = "0 Conv2d, 1 BatchNorm2d, 2 ReLU, 3 MaxPool2d"
    assert cells(distfa.split(model, (3, 32, 32))) == [
        ["1", modules, "960 (928 trained)", "3x32x32", "32x16x16", f"{4 * 32 * 16 * 16:,}"],
        ["2", "4 ResidualBlock, 5 Flatten", f"{inside:,}", "32x16x16", "16384", f"{4 * 16384:,}"],
        ["3", "6 Linear", f"{64 * 256 * 100 + 100:,}", "16384", "100", "-"],
    ]


def test_the_table_of_a_transformer():
    """Tokens come in as numbers without an axis of their own; every later signal has one of width 8."""
    model = models.transformer(11, 6, width=8, heads=2, depth=2)
    counts = [sum(p.numel() for p in part.parameters()) for part in model]
    assert cells(distfa.split(model, (6,), tokens=True)) == [
        ["1", "0 TokenEmbedding", f"{(11 + 6) * 8}", "6", "6x8", f"{4 * 6 * 8}"],
        ["2", "1 TransformerBlock", f"{counts[1]}", "6x8", "6x8", f"{4 * 6 * 8}"],
        ["3", "2 TransformerBlock, 3 LayerNorm", f"{counts[2] + 2 * 8}", "6x8", "6x8", f"{4 * 6 * 8}"],
        ["4", "4 Linear", f"{8 * 11 + 11}", "6x8", "6x11", "-"],
    ]


def test_a_layer_without_a_number_is_refused_by_name():
    for last in (nn.Linear(0, 3), nn.Sequential(nn.Linear(0, 3), nn.Sigmoid())):
        with pytest.raises(ModelError, match=r"layer 1 \(0 Linear, 1 ReLU\) returns empty samples, of shape \(0,\)"):
            split(nn.Sequential(nn.Linear(6, 0), nn.ReLU(), last), (6,))


def test_a_first_linear_says_the_shape_of_a_sample_even_if_it_is_not_plain():
    linear = nn.Linear(6, 3)
    linear.bias.requires_grad_(False)
    assert split(nn.Sequential(linear, nn.ReLU(), nn.Linear(3, 3))).shapes == ((6,), (3,), (3,))


def test_the_table_of_one_layer_says_that_no_rule_is_at_work():
    table = str(split(nn.Sequential(nn.Linear(6, 3))))
    assert "one layer: no rule applies" in table
    assert "put its parts into the nn.Sequential as separate modules" in table
    assert "no rule" not in str(split(nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3))))
