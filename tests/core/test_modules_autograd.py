"""Networks of any modules: bp is plain torch, and renewed feedback is the mean Jacobian."""

from collections import OrderedDict
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import in_turn
from runs import run_serial
from torch import nn
from zoo import NETWORKS, made, prepared

from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import RenewConfig
from distfa.core.modules.module_block import ModuleBlock, signs_of
from distfa.core.rules import build_rule

F64 = torch.float64
CPU = torch.device("cpu")
ROWS = RenewConfig().rows
OPTIMIZERS = [
    OptimizerConfig(name="sgd", lr=0.02, momentum=0.9, weight_decay=1e-3),
    OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-3),
]


def without_dropout(modules):
    for module in modules.values():
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    return modules


def whole(modules):
    """The model of these layers, under its own names."""
    return nn.Sequential(OrderedDict(pair for n in sorted(modules) for pair in modules[n].named_children()))


def plain_torch(r, model, data):
    """Autograd and one joint optimizer; gradients of micro-batches are added.

    BatchNorm's statistics in training are each micro-batch's own, and its running statistics follow every micro-batch
    in order: what torch does when it accumulates gradients.
    """
    x, y = (side.readers(F64, CPU)[0] for side in data)
    c = r.optimizer
    shared = {"lr": c.lr, "weight_decay": c.weight_decay, "foreach": False}
    if c.name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=c.momentum, **shared)
    else:
        optimizer = torch.optim.Adam(model.parameters(), **shared)
    for batch in order.batches(r, len(x)):
        optimizer.zero_grad()
        for rows in batch.parts:
            out = model(x.read(rows))
            target = y.read(rows)
            loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1), reduction="sum")
            (loss / (batch.rows * target[0].numel())).backward()
        optimizer.step()
    return model.state_dict()


@in_turn(how=product(OPTIMIZERS, [1, 3]), network=NETWORKS)
def test_bp_is_plain_torch_running_statistics_included(how, network):
    optimizer, micro_batches = how
    settings = {"dtype": F64, "optimizer": optimizer, "micro_batches": micro_batches, "epochs": 10, "max_steps": 30}
    r, modules, data = made(network, rule="bp", rows=24, **settings)
    weights, _, _ = run_serial(r, data, modules=without_dropout(modules))
    expected = plain_torch(r, whole(modules), data)
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        # Adam divides by sqrt(v) + eps: round-off in a gradient near zero is amplified by up to 1/eps
        torch.testing.assert_close(weights[key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("network", ["lenet", "residual_mlp", "transformer"])
def test_renewed_feedback_is_the_mean_jacobian_layer_by_layer(network):
    """B_l = B_{l+1} mean(dh_{l+1}/dh_l), over the first micro-batch's first rows and all positions: each one's own.

    What attention carries from one position to another comes in with a sign of chance; elsewhere signs cancel.
    """
    r, modules, data = made(network, rule="dfa", dtype=F64, rows=ROWS + 8, batch_size=ROWS + 8, max_steps=1)
    trainer = run_serial(r, data, modules=without_dropout(modules))[2]
    x = data[0].readers(F64, CPU)[0]
    h = x.read(next(order.batches(r, len(x))).parts[0])[:ROWS]
    inputs = {}
    for number in sorted(modules):
        inputs[number] = h
        h = modules[number](h)
    feedback, places = torch.eye(r.network.outputs, dtype=F64), len(r.network.positions)
    for number in range(len(modules), 1, -1):
        h_in = inputs[number].detach()
        inner, outer = h_in.shape[1 + places :].numel(), h_in.shape[: 1 + places]
        signs = signs_of(outer).double() if network == "transformer" else torch.ones(outer, dtype=F64)
        # the rows, at every position of the output, back to the input: the mean over samples and positions

        def rows_of(given, number=number, feedback=feedback, signs=signs):
            out = modules[number](given)
            flat = out.reshape(*out.shape[: 1 + places], -1)
            return (signs.unsqueeze(-1) * (flat @ feedback.t())).sum(tuple(range(1 + places)))

        jacobian = torch.autograd.functional.jacobian(rows_of, h_in)  # (C, n, *positions, *inner)
        feedback = (signs.view(-1, 1) * jacobian.reshape(len(feedback), -1, inner)).mean(1)
        torch.testing.assert_close(trainer.layers[number - 2].ends.teacher, feedback, rtol=1e-10, atol=1e-13)


def test_renewal_through_batch_norm_keeps_what_all_samples_have_in_common():
    """Near the Jacobian at fixed statistics; an equal row for all samples would lose every channel's mean."""
    torch.manual_seed(0)
    conv, norm, rest = nn.Conv2d(3, 4, 3).to(F64), nn.BatchNorm2d(4).to(F64), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    x, rows = torch.randn(64, 3, 8, 8, dtype=F64), torch.randn(5, 4 * 3 * 3, dtype=F64)
    block = ModuleBlock(nn.Sequential(conv, norm, *rest), trained=(), dtype=F64, signals=F64)
    found = block.pass_on(rows, block.forward(x, aside=True)).view(5, 3, 64)
    z = conv(x.requires_grad_())
    variance, mean = torch.var_mean(z.detach(), (0, 2, 3), correction=0)
    fixed = rest(F.batch_norm(z, mean, variance, norm.weight, norm.bias, eps=norm.eps))
    expected = torch.stack(
        [
            torch.autograd.grad(fixed.flatten(1) @ row, x, torch.ones(64, dtype=F64), retain_graph=True)[0].mean(0)
            for row in rows
        ]
    ).view(5, 3, 64)
    assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.95
    assert F.cosine_similarity(found.sum(2), expected.sum(2)).min() > 0.95


def test_in_a_linear_network_renewed_dfa_starts_as_backpropagation():
    found = []
    for rule in ("dfa", "bp"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)).to(F64)
        settings = {"dtype": F64, "optimizer": OptimizerConfig(name="sgd", lr=0.1), "max_steps": 1}
        r, modules, data = prepared(model, (2, 6, 6), 5, rule=rule, **settings)
        found.append(run_serial(r, data, modules=modules)[0])
    for key, value in found[1].items():
        torch.testing.assert_close(found[0][key], value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("network", ["lenet", "transformer"])
def test_random_dfa_is_autograd_of_every_layer_with_the_error_through_its_matrix(network):
    """s_l = e B_l in the shape of h_l, at every position; the layer's gradient is h_l's with that cotangent."""
    sgd = OptimizerConfig(name="sgd", lr=0.1)
    settings = {"dtype": F64, "optimizer": sgd, "max_steps": 1, "rows": 8, "batch_size": 8, "init": "random"}
    r, modules, data = made(network, rule="dfa", **settings)
    modules = without_dropout(modules)
    trained = run_serial(r, data, modules=modules)[0]
    x, y = (side.readers(F64, CPU)[0] for side in data)
    rows = next(order.batches(r, len(x))).parts[0]
    inputs, outputs, h = {}, {}, x.read(rows)
    for number in sorted(modules):
        inputs[number], outputs[number] = h, modules[number](h)
        h = outputs[number].detach()
    target = y.read(rows)
    logits = h.requires_grad_()
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
    (e,) = torch.autograd.grad(loss, logits)
    rule = build_rule(r)
    for number, module in modules.items():
        out = outputs[number]
        last = number == len(modules)
        feedback = None if last else rule.direct_feedback(number)
        assert last or feedback.shape == (e.shape[-1], out[0].numel() // target[0].numel())
        s = e if last else (e @ feedback).reshape(out.shape)
        parameters = dict(module.named_parameters())
        found = torch.autograd.grad(out, list(parameters.values()), s)
        for (name, before), gradient in zip(parameters.items(), found, strict=True):
            torch.testing.assert_close(trained[name], before.detach() - 0.1 * gradient, rtol=1e-12, atol=1e-15)
