"""Losses against torch's own, micro-batches adding up."""

import pytest
import torch
from torch import nn

from distfa.core.losses import cross_entropy, mse

CASES = [
    (cross_entropy, nn.CrossEntropyLoss(), torch.arange(10) % 4),
    (mse, nn.MSELoss(), torch.randn(10, 4, dtype=torch.float64)),
]


@pytest.mark.parametrize(("ours", "torchs", "target"), CASES, ids=["cross_entropy", "mse"])
@pytest.mark.parametrize("parts", [1, 3, 10])
def test_parts_add_up_to_torchs_loss_and_gradient(ours, torchs, target, parts):
    output = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    loss = torchs(output, target)
    loss.backward()
    scored = [
        ours(o, t, 10) for o, t in zip(output.detach().tensor_split(parts), target.tensor_split(parts), strict=True)
    ]
    assert sum(part.loss for part in scored) == pytest.approx(loss.item(), rel=1e-14)
    assert torch.allclose(torch.cat([part.gradient for part in scored]), output.grad, rtol=1e-13, atol=1e-17)


def test_mse_takes_labels_as_one_hot_rows_and_counts_hits():
    output = torch.eye(3, dtype=torch.float64)
    scored = mse(output, torch.tensor([0, 1, 0]), 3)
    assert scored.correct == 2
    assert scored.loss == pytest.approx(2 / 9)
