"""bp equals plain torch; fa and dfa equal autograd with the transposed weights replaced."""

import numpy as np
import pytest
import torch
from runs import SIZES, raw, recipe, run_serial
from torch import nn

from distfa.core import order
from distfa.core.activations import NAMES
from distfa.core.layer import Layer
from distfa.core.optim import OptimizerConfig
from distfa.core.records import StepRecord

F64 = torch.float64


def plain_torch(recipe, data):
    """The same training by nn.Sequential, autograd and one joint, unfused optimizer."""
    inputs, targets = data
    x, y = inputs.readers(F64, torch.device("cpu"))[0], targets.readers(F64, torch.device("cpu"))[0]
    model = recipe.network.module().to(F64)
    model.load_state_dict(
        {k: v for l in range(1, len(recipe.network) + 1) for k, v in Layer(recipe, l).state().items()}
    )
    config = recipe.optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            foreach=False,
        )
    else:
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
        optimizer = adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, foreach=False)
    criterion = nn.CrossEntropyLoss() if recipe.loss == "cross_entropy" else nn.MSELoss()
    losses = []
    for batch in order.batches(recipe, len(x)):
        rows = np.concatenate(batch.parts)
        target = y.read(rows)
        if recipe.loss == "mse":
            target = nn.functional.one_hot(target, recipe.network.sizes[-1]).to(F64)
        loss = criterion(model(x.read(rows)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.state_dict(), losses


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_bp_is_plain_torch_for_every_activation(activation, micro_batches):
    r = recipe(rule="bp", activation=activation, micro_batches=micro_batches, dtype=F64, max_steps=200, epochs=50)
    data = raw(r)
    weights, records, _ = run_serial(r, data)
    expected, losses = plain_torch(r, data)
    for key, value in expected.items():
        # 200 steps of float64 round-off, about 1e-16 a step, amplified by training
        assert torch.allclose(weights[key], value, rtol=1e-9, atol=1e-11), key
    steps = [record.loss for record in records if isinstance(record, StepRecord)]
    assert steps == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig(name="sgd", lr=0.1),
        OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        OptimizerConfig(name="adam", lr=1e-2, weight_decay=1e-3),
        OptimizerConfig(name="adamw", lr=1e-2, weight_decay=1e-2),
    ],
    ids=lambda o: f"{o.name}-{o.momentum}",
)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_bp_is_plain_torch_for_every_optimizer_and_loss(optimizer, loss):
    r = recipe(rule="bp", optimizer=optimizer, loss=loss, dtype=F64, max_steps=30, epochs=50)
    data = raw(r)
    weights, _, _ = run_serial(r, data)
    expected, _ = plain_torch(r, data)
    for key, value in expected.items():
        # Adam divides by sqrt(v) + eps: where a gradient is near zero, round-off in it is amplified by up to 1/eps
        assert torch.allclose(weights[key], value, rtol=1e-6, atol=1e-7), key


class Substituted(torch.autograd.Function):
    """x W^T + b forward; B in place of W backward: what fa is, said in autograd's terms."""

    @staticmethod
    def forward(ctx, x, weight, bias, feedback):
        ctx.save_for_backward(x, feedback)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, feedback = ctx.saved_tensors
        return grad @ feedback, grad.t() @ x, grad.sum(0), None


def one_step(rule, init, activation, sizes):
    """The layers after one forward and backward of one batch, and that batch."""
    r = recipe(sizes, rule=rule, init=init, activation=activation, dtype=F64)
    layers = [Layer(r, l) for l in range(1, len(sizes))]
    x = torch.randn(7, sizes[0], dtype=F64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(7) % sizes[-1]
    h = x
    for layer in layers:
        h = layer.forward(h, 0)
    scored = layers[-1].score(h, y, 7)
    messages = {}
    for layer in reversed(layers):
        delta = layer.output_delta(scored, 0) if layer is layers[-1] else layer.hidden_delta(messages[layer.index], 0)
        for boundary in layer.sends_to:
            messages[boundary] = layer.emit(boundary, delta)
            assert messages[boundary].shape == (7, layer.rule.width(boundary))
        layer.accumulate(delta, 0)
    return r, layers, x, y


@pytest.mark.parametrize("sizes", [SIZES, (5, 3), (4, 30, 2, 9, 3)])
@pytest.mark.parametrize("init", ["aligned", "random"])
@pytest.mark.parametrize("activation", NAMES)
def test_fa_is_autograd_with_fixed_matrices_in_place_of_the_weights(sizes, init, activation):
    _, layers, x, y = one_step("fa", init, activation, sizes)
    leaves, h = [], x
    for layer in layers:
        weight, bias = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
        leaves.append((weight, bias))
        feedback = layer.weight if layer.index == 1 else layer.rule._hop_feedback(layer.index - 1)
        h = layer.shape.activation.forward(Substituted.apply(h, weight, bias, feedback))
    nn.functional.cross_entropy(h, y).backward()
    for layer, (weight, bias) in zip(layers, leaves, strict=True):
        assert torch.allclose(layer.weight.grad, weight.grad, rtol=1e-12, atol=1e-15)
        assert torch.allclose(layer.bias.grad, bias.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("init", ["aligned", "random"])
@pytest.mark.parametrize("activation", NAMES)
def test_dfa_is_its_closed_form(init, activation):
    _, layers, x, y = one_step("dfa", init, activation, SIZES)
    h_in, outputs = [x], x
    for layer in layers:
        outputs = layer.infer(outputs)
        h_in.append(outputs)
    e = (torch.softmax(outputs, 1) - nn.functional.one_hot(y, SIZES[-1])) / len(x)
    for layer in layers[:-1]:
        z = (h_in[layer.index - 1] @ layer.weight.t() + layer.bias).requires_grad_()
        feedback = layer.rule.feedback(layer.index, sender=False)
        (delta,) = torch.autograd.grad(layer.shape.activation.forward(z), z, e @ feedback)
        assert torch.allclose(layer.weight.grad, delta.t() @ h_in[layer.index - 1], rtol=1e-12, atol=1e-15)
    assert torch.allclose(layers[-1].weight.grad, e.t() @ h_in[-2], rtol=1e-12, atol=1e-15)


def test_aligned_fa_starts_as_backpropagation():
    _, fa, _, _ = one_step("fa", "aligned", "relu", SIZES)
    _, bp, _, _ = one_step("bp", "aligned", "relu", SIZES)
    for a, b in zip(fa, bp, strict=True):
        assert torch.allclose(a.weight.grad, b.weight.grad, rtol=1e-13, atol=1e-16)


def test_aligned_dfa_starts_as_backpropagation_in_a_linear_network():
    """With phi the identity the product of the weights above is the whole backward path."""
    _, dfa, _, _ = one_step("dfa", "aligned", "identity", SIZES)
    _, bp, _, _ = one_step("bp", "aligned", "identity", SIZES)
    for a, b in zip(dfa, bp, strict=True):
        assert torch.allclose(a.weight.grad, b.weight.grad, rtol=1e-11, atol=1e-14)


def test_random_feedback_is_not_aligned_with_the_weights():
    layers = one_step("fa", "random", "relu", (40, 50, 30, 5))[1]
    weight, feedback = layers[1].weight.flatten(), layers[1].rule._hop_feedback(1).flatten()
    assert abs(torch.cosine_similarity(weight, feedback, dim=0)) < 0.1
