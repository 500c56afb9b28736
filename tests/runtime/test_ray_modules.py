"""On a real Ray cluster: networks of any modules, with their own weights, equal the serial oracle bit for bit."""

import copy

import numpy as np
import pytest
import torch
from alive import HiddenAverage, NumpyNoise, OwnGenerator, Remembering, Skipping
from forwards import Images
from ray import cloudpickle
from runs import assert_same_bits
from streams import CLASSES, SHAPE, stack
from torch import nn
from zoo import NETWORKS

from distfa.api.trainer import Trainer
from distfa.core.rules import RULES
from distfa.data import from_arrays
from distfa.run.run import run
from distfa.sections.split import split
from distfa.settings import parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")
ROWS, TEST = 22, 6
ENGINES = {"ray": {"engine": "ray", "ray__workers": 2}, "serial": {"engine": "serial"}}
HOW = {"sync": ("sync", 1), "parts": ("sync", 4), "async": ("async", 8)}


def trained(name, engine, rule, how, folder):
    torch.manual_seed(3)
    model, shape, outputs = NETWORKS[name]()
    embeds = name == "transformer"
    network = split(model, shape, tokens=embeds)
    rng = np.random.default_rng(1)
    rows = ROWS + TEST
    x = rng.integers(0, outputs, (rows, *shape)) if embeds else rng.standard_normal((rows, *shape))
    y = rng.integers(0, outputs, (rows, *network.positions))
    dataset = from_arrays((x[:ROWS], y[:ROWS]), (x[ROWS:], y[ROWS:]), tokens=outputs if embeds else None)
    schedule, micro_batches = HOW[how]
    spec = parse_spec(
        {
            "engine": engine,
            "rule": rule,
            "schedule": schedule,
            "micro_batches": micro_batches,
            "batch_size": 8,
            "epochs": 3,
            "optimizer": {"name": "adam", "lr": 3e-3},
            "ledger": {"every": 1, "exact": True, "on_violation": "stop"},
            "probe": {"every": 2},
            "run_dir": str(folder / engine),
        }
    )
    return run(spec, network, dataset, model=model)


def test_errors_go_down_shortcuts_of_every_kind(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((ROWS + TEST, *SHAPE)), rng.integers(0, CLASSES, ROWS + TEST)
    weights, losses = {}, {}
    for engine in ("ray", "serial"):
        torch.manual_seed(3)
        trainer = Trainer(
            stack(),
            engine=engine,
            rule="skip",
            schedule="async",
            micro_batches=4,
            batch_size=8,
            epochs=1,
            codec="int8",
            optimizer="adam",
            ray={"workers": 2},
            ledger={"every": 1, "exact": True},
            run_dir=str(tmp_path / engine),
        )
        losses[engine] = trainer.fit((x[:ROWS], y[:ROWS]), (x[ROWS:], y[ROWS:])).test_loss
        weights[engine] = trainer.model.state_dict()
    assert_same_bits(weights["ray"], weights["serial"])
    assert losses["ray"] == losses["serial"]


CASES = [
    (name, rule, how)
    for turn, name in enumerate(NETWORKS)
    for number, rule in enumerate(name for name, rule in RULES.items() if not rule.follows_shortcuts)
    for how in HOW
    if list(HOW)[(turn + number) % 3] == how
]


@pytest.mark.slow  # by default the same workers as threads, in test_modules_equal_serial.py, and the test below
@pytest.mark.parametrize(("name", "rule", "how"), CASES)
def test_actors_equal_serial(name, rule, how, tmp_path):
    result, weights = trained(name, "ray", rule, how, tmp_path)
    oracle, expected = trained(name, "serial", rule, how, tmp_path)
    assert_same_bits(weights, expected)
    assert (result.train_loss, result.test_loss) == (oracle.train_loss, oracle.test_loss)
    assert result.ledger == oracle.ledger
    assert result.alignment == oracle.alignment


class Doubled(nn.Module):
    """A user's own: only this file knows it."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.relu(self.inner(x)) * 2


def test_a_users_own_module_comes_back_trained(tmp_path):
    torch.manual_seed(0)
    alive = nn.Sequential(Remembering(6, 6), HiddenAverage(6, 6), Skipping(), OwnGenerator(6, 6), NumpyNoise(6, 6))
    model = nn.Sequential(alive, nn.Dropout(0.2), Doubled(6))
    twin, x = copy.deepcopy(model), np.random.default_rng(0).standard_normal((40, 6))
    for each in (model, twin):
        torch.manual_seed(1)
        np.random.seed(1)
        each(torch.zeros(2, 6))  # one of its modules keeps this output, with its graph
    y = np.arange(40) % 6
    for each, engine in ((model, "ray"), (twin, "serial")):
        trainer = Trainer(each, rule="dfa", epochs=3, run_dir=str(tmp_path / engine), **ENGINES[engine])
        trainer.fit((x[:30], y[:30]), (x[30:], y[30:]))
    assert isinstance(model[2], Doubled)
    assert_same_bits(model.state_dict(), twin.state_dict())
    assert model[0][0].seen == twin[0][0].seen
    assert torch.equal(model[0][1].mean, twin[0][1].mean)


def assert_same_bits_on_ray(first, shape, folder, **how):
    """Train two copies of a model, by actors and in this process."""
    models = {engine: copy.deepcopy(first) for engine in ("ray", "serial")}
    x, y = np.random.default_rng(0).standard_normal((40, *shape)).astype(np.float32), np.arange(40) % 5
    for engine, model in models.items():
        trainer = Trainer(model, epochs=2, batch_size=8, run_dir=str(folder / engine), **how, **ENGINES[engine])
        trainer.fit((x[:30], y[:30]), (x[30:], y[30:]), normalised=True)
    assert_same_bits(models["ray"].state_dict(), models["serial"].state_dict())
    assert any(not torch.equal(value, models["ray"].state_dict()[key]) for key, value in first.state_dict().items())


def test_a_model_that_is_no_sequential_has_the_same_bits_on_ray(tmp_path):
    torch.manual_seed(0)
    assert_same_bits_on_ray(Images(), (1, 8, 8), tmp_path, rule="dfa", schedule="async", micro_batches=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11_bn", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"]
)
def test_networks_of_torchvision_have_the_same_bits_on_ray(tmp_path, name):
    from vision import NARROW, convnext, mobilenetv3, resnet, vgg, vision_transformer

    for module in (convnext, mobilenetv3, resnet, vgg, vision_transformer):
        cloudpickle.register_pickle_by_value(module)  # actors cannot import torchvision where its build is another one
    torch.manual_seed(0)
    assert_same_bits_on_ray(NARROW[name](), (3, 32, 32), tmp_path, rule="bp", layers=4)
