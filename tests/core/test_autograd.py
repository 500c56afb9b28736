"""bp equals plain torch; fa and dfa equal autograd with the transposed weights replaced."""

import numpy as np
import pytest
import torch
from cases import in_turn
from runs import SIZES, raw, recipe, run_serial
from torch import nn

from distfa.core.base import order
from distfa.core.base.activations import NAMES
from distfa.core.base.optim import OptimizerConfig
from distfa.core.books.records import StepRecord
from distfa.core.layer import Layer

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


@in_turn(activation=NAMES, micro_batches=[1, 3])
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


PART = (0, 0)


def one_step(rule, init, activation, sizes, **settings):
    """The layers after one forward and backward of one batch, and that batch."""
    r = recipe(sizes, rule=rule, init=init, activation=activation, dtype=F64, **settings)
    layers = [Layer(r, l) for l in range(1, len(sizes))]
    x = torch.randn(7, sizes[0], dtype=F64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(7) % sizes[-1]
    h = x
    for layer in layers:
        layer.begin_step(0)
        h = layer.forward(h, PART)
    scored = layers[-1].score(h, y, 7)
    messages = {}
    for layer in reversed(layers):
        if layer is layers[-1]:
            delta = layer.output_delta(scored, PART)
        elif layer.rule.reads_labels:
            delta = layer.hidden_delta(layer.label_message(y, 7), PART)
        else:
            delta = layer.hidden_delta(messages[layer.index], PART)
        for boundary in layer.sends_to:
            messages[boundary] = layer.emit(boundary, delta)
            assert messages[boundary].shape == (7, layer.rule.width(boundary))
        layer.accumulate(delta, PART)
    return r, layers, x, y


def hop_matrix(rule, layer):
    """What the rule applies in place of W_l on the way down from layer l, worked out here from its definition."""
    weight, below = layer.weight, layer.index - 1
    if rule == "usf":
        return (2 / (weight.shape[0] + weight.shape[1])) ** 0.5 * torch.where(weight > 0, 1.0, -1.0).to(F64)
    if rule == "frsf":
        return layer.rule.hop_feedback(below).abs() * weight / weight.abs()
    if rule == "brsf":
        (magnitude,) = layer.rule.refresh(below, 0, layer.block.weights()).values()
        return magnitude * weight / weight.abs()
    return layer.rule.hop_feedback(below)  # fa, kp


@pytest.mark.parametrize("sizes", [SIZES, (5, 3), (4, 30, 2, 9, 3)])
@pytest.mark.parametrize("init", ["aligned", "random"])
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("rule", ["fa", "usf", "frsf", "brsf", "kp"])
def test_hop_rules_are_autograd_with_their_matrix_in_place_of_the_weights(rule, sizes, init, activation):
    _, layers, x, y = one_step(rule, init, activation, sizes)
    leaves, h = [], x
    for layer in layers:
        weight, bias = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
        leaves.append((weight, bias))
        feedback = layer.weight if layer.index == 1 else hop_matrix(rule, layer)
        h = layer.spec.activation.forward(Substituted.apply(h, weight, bias, feedback))
    nn.functional.cross_entropy(h, y).backward()
    for layer, (weight, bias) in zip(layers, leaves, strict=True):
        assert torch.allclose(layer.weight.grad, weight.grad, rtol=1e-12, atol=1e-15)
        assert torch.allclose(layer.bias.grad, bias.grad, rtol=1e-12, atol=1e-15)


def factors_of(rule, below, above):
    """What the two ends of boundary 1 apply, one after the other."""
    (first,) = above.rule.origin_state(1, above.block.weights()).values()
    return first, below.rule.teacher(1)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("init", ["aligned", "random"])
@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_low_rank_feedback_is_the_full_one_on_drawn_directions_of_its_narrower_side(rule, init, rank):
    _, low, _, _ = one_step(rule, init, "relu", SIZES, rank=rank)
    sender = low[1] if rule == "fa" else low[-1]
    first, second = factors_of(rule, low[0], sender)
    full = sender.rule.hop_feedback(1) if rule == "fa" else sender.rule.direct_feedback(1)
    used = first @ second
    assert torch.linalg.matrix_rank(used) == rank
    # a projection: what is left out stands at right angles to what is kept, and a second time changes nothing
    assert (used * (full - used)).sum().abs() < 1e-12
    delta = torch.randn(4, len(full), dtype=F64)
    message = sender.emit(1, delta)
    assert message.shape == (4, rank)
    assert torch.allclose(low[0].rule.teach(message, low[0].ends.teacher), delta @ used, atol=1e-14)


def test_no_drawn_directions_of_an_orthogonal_matrix_are_worse_than_its_best_approximation():
    """Its singular values are all equal, so an SVD's choice is arbitrary, and two processors may choose otherwise."""
    _, low, _, _ = one_step("fa", "aligned", "relu", SIZES, rank=3)
    first, second = factors_of("fa", low[0], low[1])
    full = low[1].rule.hop_feedback(1)
    best = torch.linalg.svdvals(full)[:3].square().sum().item()
    assert (first @ second).square().sum().item() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_a_rank_beyond_the_full_one_changes_nothing(rule):
    capped, full = (run_serial(recipe(rule=rule, rank=rank))[0] for rank in (999, None))
    assert all(torch.equal(capped[key], full[key]) for key in full)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_aligned_kp_is_backpropagation_without_weight_transport(micro_batches):
    """B starts on W and takes the same updates, so the two never part: equal to the last bit."""
    settings = {"micro_batches": micro_batches, "epochs": 20, "optimizer": OptimizerConfig(name="adam", lr=1e-2)}
    kp, bp = (run_serial(recipe(rule=rule, **settings))[0] for rule in ("kp", "bp"))
    assert all(torch.equal(kp[key], bp[key]) for key in bp)


def test_random_kp_with_weight_decay_drives_feedback_towards_the_weights():
    optimizer = OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.05)
    trainer = run_serial(recipe(rule="kp", init="random", optimizer=optimizer, epochs=200, dtype=F64))[2]
    below, above = trainer.layers[1], trainer.layers[2]
    cosine = torch.cosine_similarity(below.ends.teacher.flatten(), above.weight.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize("init", ["aligned", "random"])
def test_drtp_is_its_closed_form(init):
    _, layers, x, y = one_step("drtp", init, "relu", SIZES)
    h = x
    for layer in layers[:-1]:
        z = h @ layer.weight.t() + layer.bias
        s = nn.functional.one_hot(y, SIZES[-1]).to(F64) / len(x) @ layer.rule.teacher(layer.index)
        assert torch.allclose(layer.weight.grad, (s * (z > 0)).t() @ h, rtol=1e-12, atol=1e-15)
        h = layer.infer(h)


def test_aligned_drtp_pushes_against_the_product_of_the_weights_above():
    """The target's share of e = (softmax - onehot) / N is minus onehot / N."""
    drtp, dfa = (one_step(rule, "aligned", "relu", SIZES)[1][0].rule for rule in ("drtp", "dfa"))
    assert torch.equal(drtp.teacher(1), -dfa.teacher(1))


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
        feedback = layer.rule.teacher(layer.index)
        (delta,) = torch.autograd.grad(layer.spec.activation.forward(z), z, e @ feedback)
        assert torch.allclose(layer.weight.grad, delta.t() @ h_in[layer.index - 1], rtol=1e-12, atol=1e-15)
    assert torch.allclose(layers[-1].weight.grad, e.t() @ h_in[-2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("init", ["aligned", "random"])
@pytest.mark.parametrize("activation", NAMES)
def test_dkp_is_its_closed_form_and_its_feedback_moves_along_the_error_and_the_signal(init, activation):
    optimizer = OptimizerConfig(name="sgd", lr=0.3, weight_decay=0.2)
    _, layers, x, y = one_step("dkp", init, activation, SIZES, optimizer=optimizer, decay=0.05)
    h = [x]
    for layer in layers:
        h.append(layer.infer(h[-1]))
    e = (torch.softmax(h[-1], 1) - nn.functional.one_hot(y, SIZES[-1])) / len(x)
    for layer in layers[:-1]:
        below, feedback = h[layer.index - 1], layer.rule.teacher(layer.index)
        z = (below @ layer.weight.t() + layer.bias).requires_grad_()
        (delta,) = torch.autograd.grad(layer.spec.activation.forward(z), z, e @ feedback)
        assert torch.allclose(layer.weight.grad, delta.t() @ below, rtol=1e-12, atol=1e-15)
        layer.update(0, 0.3)
        moved = feedback - 0.3 * (e.t() @ h[layer.index] + 0.05 * feedback)
        assert torch.allclose(layer.ends.teacher, moved, rtol=1e-12, atol=1e-15)


def test_dkp_with_decay_drives_the_last_feedback_towards_the_output_weights():
    """Both move along e^T h and lose alike, so that what they were at the start is forgotten."""
    optimizer = OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.05)
    settings = {"init": "random", "optimizer": optimizer, "decay": 0.05, "epochs": 200, "dtype": F64}
    last, output = run_serial(recipe(rule="dkp", **settings))[2].layers[-2:]
    assert torch.cosine_similarity(last.ends.teacher.flatten(), output.weight.flatten(), dim=0) > 0.99


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
    weight, feedback = layers[1].weight.flatten(), layers[1].rule.hop_feedback(1).flatten()
    assert abs(torch.cosine_similarity(weight, feedback, dim=0)) < 0.1
