"""Splitting a Sequential into layers."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from distfa.core.activations import Activation
from distfa.core.model import mlp
from distfa.core.split import split
from distfa.errors import ModelError


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
    network = mlp((6, 5, 4, 3), activation=Activation(name="relu"))
    assert split(network.module()) == network
    assert network.module()(torch.zeros(2, 6)).shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2), r"the model is a Linear; .*nn\.Sequential"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)), r"module '1' takes 3 features but module '0' .* gives 2"),
        (nn.Sequential(nn.Identity()), r"has no module with parameters"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(model, message):
    with pytest.raises(ModelError, match=message):
        split(model)
