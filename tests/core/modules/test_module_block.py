"""What a block keeps of the module that it runs: its buffers as they are, its numbers in full, under every name."""

import torch
from torch import nn

from distfa.core.modules.module_block import ModuleBlock


class Turning(nn.Module):
    """Rotary positions: a complex buffer, which ``Module.to`` would make real."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.arange(3.0)))

    def forward(self, x):
        pairs = torch.view_as_complex(self.linear(x).view(-1, 3, 2))
        return torch.view_as_real(pairs * self.turn).flatten(1)


def test_a_complex_buffer_stays_complex():
    module = nn.Sequential(Turning())
    block = ModuleBlock(module, trained=("0.linear.weight",), dtype=torch.float32, signals=torch.float32)
    x = torch.randn(4, 6)
    assert torch.equal(block.forward(x).h, module(x))
    assert torch.equal(block.state()["0.turn"], module[0].turn)


class Offset(nn.Module):
    """One weight under two names, and a constant beside it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.same = self.linear
        self.register_buffer("places", torch.randn(6))

    def forward(self, x):
        return self.same(self.linear(x) + self.places)


def test_a_mixed_block_gives_back_full_numbers_under_every_name():
    module = nn.Sequential(Offset())
    names = tuple(name for name, _ in module.named_parameters())
    block = ModuleBlock(module, trained=names, dtype=torch.float32, signals=torch.bfloat16)
    assert block.forward(torch.randn(4, 6).bfloat16()).h.dtype == torch.bfloat16
    assert block.state().keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(block.state()[name], value), name
    block.load({name: value + 1 for name, value in block.state().items()})
    assert torch.equal(block.state()["0.same.weight"], module[0].linear.weight + 1)
