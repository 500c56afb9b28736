"""The local optimizers have the bits of torch.optim's fused classes, and do not load torch's compiler."""

import subprocess
import sys

import pytest
import torch

from distfa.core.base.optim import Group, Optimizer, OptimizerConfig, rate

TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def by_name(parameters):
    return {str(number): parameter for number, parameter in enumerate(parameters)}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
        ("adam", {"weight_decay": 0.01}),
        ("adam", {"amsgrad": True, "maximize": True}),
        ("adamw", {"weight_decay": 0.01, "betas": (0.8, 0.99), "eps": 1e-6}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twenty_steps_with_a_falling_rate_have_torchs_bits_and_state(name, settings, dtype):
    generator = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, dtype=dtype, generator=generator) for shape in ((5, 7), (5,))]
    theirs = [p.clone() for p in mine]
    optimizer = Optimizer(OptimizerConfig(name=name, **settings), by_name(mine))
    peer = TORCH[name](theirs, lr=1.0, fused=True, **settings)
    for step in range(20):
        for ours, other in zip(mine, theirs, strict=True):
            ours.grad = torch.randn(ours.shape, dtype=dtype, generator=generator)
            other.grad = ours.grad.clone()
        peer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step(0.1 / (1 + step))
        peer.step()
    for ours, other in zip(mine, theirs, strict=True):
        assert torch.equal(ours, other)
        kept = {key: value for key, value in peer.state[other].items() if value is not None}
        assert kept.keys() == optimizer.state[ours].keys()
        assert all(torch.equal(value, optimizer.state[ours][key]) for key, value in kept.items())


def test_a_layer_trains_without_torchs_compiler():
    """Making a torch.optim optimizer loads it: a second and 65 MiB in every layer's process."""
    script = (
        "import sys, torch; sys.path.insert(0, 'tests'); from runs import recipe, run_serial; "
        "run_serial(recipe(max_steps=3)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("settings", [{"clip_norm": 0.5}, {"clip_norm": 1e9}, {"clip_value": 0.1}])
def test_clipping_is_torchs_and_leaves_the_gradient_as_the_signals_made_it(settings):
    generator = torch.Generator().manual_seed(1)
    mine = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 7), (5,))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    optimizer, peer = Optimizer(OptimizerConfig(name="sgd", **settings), by_name(mine)), torch.optim.SGD(theirs, lr=0.1)
    for _ in range(3):
        for ours, other in zip(mine, theirs, strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator)
            other.grad = ours.grad.clone()
        before = [p.grad.clone() for p in mine]
        if "clip_norm" in settings:
            torch.nn.utils.clip_grad_norm_(theirs, settings["clip_norm"])
        else:
            torch.nn.utils.clip_grad_value_(theirs, settings["clip_value"])
        optimizer.step(0.1)
        peer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(mine, before, strict=True))
    assert all(torch.allclose(p, q, rtol=1e-6, atol=1e-8) for p, q in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("maximize", [False, True])
def test_a_folded_step_is_the_step_with_the_products_sum_as_gradient(maximize):
    generator = torch.Generator().manual_seed(2)
    weight, bias = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 7), (5,)))
    bias.grad = torch.randn(5, dtype=torch.float64, generator=generator)
    factors = {
        weight: [tuple(torch.randn(3, n, dtype=torch.float64, generator=generator) for n in (5, 7)) for _ in "ab"]
    }
    plain = [weight.clone(), bias.clone()]
    plain[0].grad, plain[1].grad = sum(left.t() @ right for left, right in factors[weight]), bias.grad.clone()
    folding = Optimizer(OptimizerConfig(name="sgd", maximize=maximize, fold=True), by_name([weight, bias]), factors)
    folding.multiply_out()  # for the books: no bit changes
    Optimizer(OptimizerConfig(name="sgd", maximize=maximize), by_name(plain)).step(0.1)
    folding.step(0.1)
    torch.testing.assert_close([weight, bias], plain, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(weight.grad, plain[0].grad, rtol=1e-14, atol=1e-15)
    assert not factors


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": "adam"}, "adam"),
        ({"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}, "momentum, weight_decay"),
        ({"name": "sgd", "clip_value": 0.1}, "clip_value"),
    ],
)
def test_only_plain_sgd_folds(settings, what):
    with pytest.raises(ValueError, match=f"fold works only with plain sgd, not with {what}; leave out"):
        OptimizerConfig(**settings, fold=True)


def test_rates_hold_from_their_steps_on():
    config = OptimizerConfig(rates=((0, 0.1), (3, 0.01)))
    assert [rate(config, step, 5) for step in range(5)] == [0.1, 0.1, 0.1, 0.01, 0.01]
    with pytest.raises(ValueError, match="start at 0 and increase"):
        OptimizerConfig(rates=((1, 0.1),))


def test_settings_can_be_a_key_also_with_what_a_scheduler_moves():
    group = Group(parameters=("0.weight",), moves={"momentum": ((0, 0.9), (3, 0.8))})
    config = OptimizerConfig(name="sgd", moves={"momentum": ((0, 0.9),)}, groups=(group,))
    assert {config: 1}[OptimizerConfig(name="sgd", moves={"momentum": ((0, 0.9),)}, groups=(group,))] == 1
