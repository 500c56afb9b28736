"""Networks of torchvision: cut wherever they can be, and trained as plain torch trains them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distfa.api.trainer import Trainer

ROWS, STEPS = 6, 2
LAYERS = {  # how many there are
    "resnet18": 10,
    "resnet50": 18,
    "vgg11_bn": 11,
    "mobilenet_v3_small": 25,
    "convnext_tiny": 23,
    "vit_b_16": 26,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images():
    drawn = np.random.default_rng(0)
    return drawn.normal(size=(ROWS, 3, 32, 32)).astype(np.float32), np.arange(ROWS) % 5


def plain_torch(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.from_numpy(x).double()), torch.from_numpy(y)).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("resnet50", "convnext_tiny") else ()) for name in LAYERS],
)
def test_bp_on_all_layers_is_plain_torch(name, tmp_path):
    from vision import NARROW  # takes seconds, which the processes of other tests save

    torch.manual_seed(0)
    model, (x, y) = NARROW[name]().double(), images()
    own = copy.deepcopy(model)
    settings = {"engine": "serial", "dtype": "float64", "run_dir": str(tmp_path / "run"), "rule": "bp"}
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    trainer = Trainer(model, **settings, optimizer=optimizer, epochs=STEPS, batch_size=ROWS)
    trainer.fit((x, y), normalised=True)
    assert len(trainer.network) == LAYERS[name]
    plain_torch(own, x, y)
    for key, value in own.state_dict().items():
        # BatchNorm of six samples multiplies round-off by 70 in each step of resnet50
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-7, atol=1e-9)
