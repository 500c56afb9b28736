"""Models of Hugging Face's transformers, with random weights: cut as they are."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from distfa.sections.split import split

if find_spec("transformers") is None:
    pytest.skip("could not import 'transformers'", allow_module_level=True)
import vision  # noqa: F401  transformers imports torchvision

# isort: split
import transformers


class Outputs(nn.Module):
    """The one tensor that is trained on."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x, return_dict=False)[0]


SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def gpt2():
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 96, "use_cache": False}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, tie_word_embeddings=False))


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=96, **SMALL))


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape", "layers"), [(gpt2, (16,), 8), (bert, (16,), 9), (vit, (3, 32, 32), 8)])
def test_it_is_cut_into_halves_of_blocks(make, shape, layers):
    torch.manual_seed(0)
    assert len(split(Outputs(make()), shape, tokens=len(shape) == 1)) == layers


@pytest.mark.slow
def test_gpt2_is_cut_by_the_names_of_its_blocks():
    names = ["model.transformer.wte", "model.transformer.h.1", "model.transformer.h.2"]
    network = split(Outputs(gpt2()), (16,), layers=names, tokens=True)
    assert [layer.modules[-1][0] for layer in network.layers] == [
        *("model.transformer.h.0", "model.transformer.h.1"),
        "model.lm_head",
    ]
