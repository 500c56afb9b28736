"""Rows of direct feedback that go back through layers: many of them by their directions, few as ever."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import distfa
from distfa.core.modules import rows
from distfa.core.modules.module_block import ModuleBlock

F64 = torch.float64


def block(*modules, dtype=F64, positions=0):
    return ModuleBlock(nn.Sequential(*modules), trained=(), dtype=dtype, signals=dtype, positions=positions)


@pytest.mark.parametrize(("dtype", "apart"), [(F64, 1e-9), (torch.float32, 1e-3)])
def test_rows_of_a_lower_rank_go_back_by_their_directions_as_they_would_one_by_one(dtype, apart):
    torch.manual_seed(0)
    conv = block(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), dtype=dtype)
    many = torch.randn(30, 7, dtype=dtype) @ torch.randn(7, 5 * 16, dtype=dtype)
    tape = conv.forward(torch.randn(6, 2, 4, 4, dtype=dtype), aside=True)
    one_by_one, together = conv.pass_on(many, tape), conv.pass_on(many, tape, 7)
    assert (together - one_by_one).abs().max() < apart * one_by_one.abs().max()


def test_only_as_many_go_back_as_there_are_directions():
    went = []

    def back(row):
        went.append(row)
        return row[:3]

    rows.take_back(torch.randn(50, 2) @ torch.randn(2, 9), back, 2)
    assert len(went) == 2


def test_few_outputs_go_back_row_by_row_bit_for_bit():
    few = distfa.split(nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1024)), (9,))
    assert [rows.directions(few, layer) for layer in (1, 2)] == [None, None]


def test_the_narrowest_boundary_above_says_how_many_directions_there_are():
    widths = (9, 30, 8, 20, 2000)
    linears = [module for i, o in pairwise(widths) for module in (nn.Linear(i, o), nn.ReLU())]
    many = distfa.split(nn.Sequential(*linears[:-1]), (9,))
    assert [rows.directions(many, layer) for layer in (1, 2, 3)] == [8, 8, 20]
    wide = distfa.split(nn.Sequential(nn.Linear(9, 1001), nn.ReLU(), nn.Linear(1001, 2000)), (9,))
    assert rows.directions(wide, 1) is None  # no fewer than half: nothing to gain


@pytest.mark.parametrize(("outputs", "before"), [(7, ()), (7, (nn.LayerNorm(6),)), (1100, ())])
@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6)])
def test_the_identity_at_the_outputs_is_never_made_and_goes_back_all_the_same(outputs, before, shape):
    head = block(*before, nn.Linear(6, outputs), positions=len(shape) - 2)
    tape = head.forward(torch.randn(*shape, dtype=F64), aside=True)
    made = head.pass_on(torch.eye(outputs, dtype=F64), tape)
    torch.testing.assert_close(head.pass_on(None, tape), made, rtol=1e-10, atol=1e-12)


def test_fifty_thousand_outputs_start_aligned_in_megabytes(tmp_path, monkeypatch):
    """It took 22 GB, twice the identity of 50,000 rows."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 50_000))
    x, y = torch.randn(8, 4), torch.arange(8) * 7142
    settings = {"engine": "serial", "max_steps": 1, "batch_size": 8, "probe": {"every": 1}, "verbose": False}
    result = distfa.Trainer(model, rule="dfa", **settings).fit((x, y))
    assert (result.init, result.start) == ("aligned", "aligned by rank 8")
    assert result.alignment["layers"][1]["cosine"] > 0.99
    assert "dfa (aligned by rank 8)" in repr(result)
