"""Losses against torch's own, micro-batches adding up."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distfa.core.base.losses import bce, cross_entropy, find_loss, mse
from distfa.errors import DataError

CASES = [
    (cross_entropy, nn.CrossEntropyLoss(), torch.arange(10) % 4),
    (mse, nn.MSELoss(), torch.randn(10, 4, dtype=torch.float64)),
    (bce, nn.BCEWithLogitsLoss(), torch.rand(10, 4, dtype=torch.float64).round()),
]


@pytest.mark.parametrize(("ours", "torchs", "target"), CASES, ids=["cross_entropy", "mse", "bce"])
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


def _sequences():
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = lambda *shape: torch.randint(0, 5, shape, generator=generator)  # noqa: E731
    return [
        (cross_entropy, lambda o, t: F.cross_entropy(o.flatten(0, -2), t.flatten()), draw(8, 3, 5), labels(8, 3)),
        (cross_entropy, lambda o, t: F.cross_entropy(o.flatten(0, -2), t.flatten()), draw(8, 2, 3, 5), labels(8, 2, 3)),
        (mse, lambda o, t: F.mse_loss(o, F.one_hot(t, 5).double()), draw(8, 3, 5), labels(8, 3)),
        (mse, F.mse_loss, draw(8, 3, 5), draw(8, 3, 5)),
    ]


@pytest.mark.parametrize(
    ("ours", "torchs", "output", "target"),
    _sequences(),
    ids=["cross_entropy", "cross_entropy of a grid", "mse of labels", "mse of floats"],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_positions_of_a_sequence_count_like_rows(ours, torchs, output, target, parts):
    leaf = output.clone().requires_grad_()
    loss = torchs(leaf, target)
    loss.backward()
    scored = [ours(o, t, 8) for o, t in zip(output.tensor_split(parts), target.tensor_split(parts), strict=True)]
    assert sum(part.loss for part in scored) == pytest.approx(loss.item(), rel=1e-14)
    assert torch.allclose(torch.cat([part.gradient for part in scored]), leaf.grad, rtol=1e-13, atol=1e-17)
    hits = 0 if target.is_floating_point() else int((output.argmax(-1) == target).sum())
    assert sum(part.correct for part in scored) == hits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_position_has_the_bits_of_a_plain_row(dtype):
    output, target = torch.randn(16, 10).to(dtype), torch.arange(16) % 10
    for loss in (cross_entropy, mse):
        row, sequence = loss(output, target, 48), loss(output.unsqueeze(1), target.unsqueeze(1), 48)
        assert (row.loss, row.correct) == (sequence.loss, sequence.correct)
        assert torch.equal(row.gradient, sequence.gradient.squeeze(1))


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (cross_entropy, torch.zeros(4, 2, dtype=torch.int64)),  # gather alone would read the first two positions
        (cross_entropy, torch.zeros(4, dtype=torch.int64)),
        (mse, torch.zeros(4, 1, dtype=torch.int64)),
        (mse, torch.zeros(4, 1, 5)),  # torch alone would broadcast
    ],
)
def test_targets_of_another_shape_are_refused(loss, target):
    with pytest.raises(DataError, match=r"output has shape \(4, 3, 5\), which needs targets of shape \(4, 3"):
        loss(torch.zeros(4, 3, 5), target, 4)


@pytest.mark.parametrize("shape", [(10, 4), (10, 3, 4)])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_and_class_weights_are_torchs_sum_over_rows(shape, weights, smoothing):
    generator = torch.Generator().manual_seed(3)
    output = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(0, 4, shape[:-1], generator=generator)
    per_class = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    summed = F.cross_entropy(
        output.flatten(0, -2), target.flatten(), weight=per_class, label_smoothing=smoothing, reduction="sum"
    )
    (summed / target.numel()).backward()
    ours = find_loss("cross_entropy", label_smoothing=smoothing, class_weights=weights)
    parts = [ours(o, t, 10) for o, t in zip(output.detach().tensor_split(3), target.tensor_split(3), strict=True)]
    assert sum(part.loss for part in parts) == pytest.approx(summed.item() / target.numel(), rel=1e-13)
    assert torch.allclose(torch.cat([part.gradient for part in parts]), output.grad, rtol=1e-12, atol=1e-16)


def test_several_labels_count_one_by_one():
    scored = bce(torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([[1.0, 1.0, 1.0]]), 1)
    assert scored.correct == 2
