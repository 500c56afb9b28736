"""The ready networks: shapes, sizes, their mathematics against plain formulas, and that they learn."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distfa import data, models
from distfa.core.base.losses import LOSSES
from distfa.errors import ModelError, SpecError
from distfa.settings import parse_spec


@pytest.fixture(autouse=True)
def one_thread():
    """Such small batches only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
RESNET20 = (  # 3x3 convolutions, 1x1 shortcuts, two numbers per BatchNorm channel, the last Linear
    9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    + (16 * 32 + 32 * 64)
    + 2 * (7 * 16 + 7 * 32 + 7 * 64)
    + (64 * 10 + 10)
)
BLOCK = 4 * 64 + (64 * 192 + 192) + (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
CASES = {
    "mlp": (lambda: models.mlp(20, 10), (20,), 20 * 128 + 128 + 128 * 128 + 128 + 1290),
    "linear": (lambda: models.mlp(20, 10, hidden=()), (20,), 210),
    "residual_mlp": (
        lambda: models.residual_mlp(20, 10, width=32, depth=3),
        (20,),
        20 * 32 + 32 + 3 * (64 + 2 * (32 * 32 + 32)) + 64 + 330,
    ),
    "lenet": (lambda: models.lenet(MNIST, 10), MNIST, 61_706),  # the count of LeNet-5 as usually published
    "lenet cifar": (lambda: models.lenet(CIFAR, 10), CIFAR, 6 * 76 + 16 * 151 + (576 * 120 + 120) + 10_164 + 850),
    "lenet digits": (lambda: models.lenet((1, 8, 8), 10), (1, 8, 8), 6 * 26 + 16 * 151 + (64 * 120 + 120) + 11_014),
    "convnet": (
        lambda: models.convnet(CIFAR, 10),
        CIFAR,
        9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * 224 + (2048 * 256 + 256) + 2570,
    ),
    "resnet20": (lambda: models.resnet20(CIFAR, 10), CIFAR, RESNET20),
    "preact_resnet": (lambda: models.preact_resnet(CIFAR, 10), CIFAR, 269_722),  # that of the paper, option A
    "transformer": (lambda: models.transformer(97, 64), (64,), 97 * 64 + 64 * 64 + 2 * BLOCK + 128 + 64 * 97 + 97),
    "dropout": (
        lambda: models.transformer(97, 64, depth=1, dropout=0.1),
        (64,),
        97 * 64 + 64 * 64 + BLOCK + 128 + 64 * 97 + 97,
    ),
}
EACH = pytest.mark.parametrize(("make", "shape", "parameters"), CASES.values(), ids=CASES)


def batch(shape, rows):
    """Inputs and targets of a batch; tokens where there is one axis of 64."""
    generator = torch.Generator().manual_seed(5)
    if shape == (64,):
        text = torch.randint(0, 97, (rows, 65), generator=generator)
        return text[:, :-1], text[:, 1:]
    return torch.randn(rows, *shape, generator=generator), torch.arange(rows) % 10


@EACH
def test_shapes_and_sizes_are_the_documented_ones(make, shape, parameters):
    model = make()
    assert type(model) is nn.Sequential
    assert sum(p.numel() for p in model.parameters()) == parameters
    x, y = batch(shape, 3)
    assert model(x).shape == ((3, 64, 97) if shape == (64,) else (3, 10))
    assert LOSSES["cross_entropy"](model(x).detach(), y, 3).gradient.shape == model(x).shape


def test_resnet20_has_the_published_size():
    assert RESNET20 == 272_474  # 0.27 million in the paper; option B adds 2752 to its 269,722


def train(make, shape, steps=8):
    torch.manual_seed(3)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = batch(shape, 6)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@EACH
def test_a_few_steps_lower_the_loss_and_repeat_bit_for_bit(make, shape, parameters):
    losses, weights = train(make, shape)
    assert losses[-1] < 0.95 * losses[0]
    again, same = train(make, shape)
    assert losses == again
    assert all(torch.equal(weights[key], same[key]) for key in weights)


@EACH
def test_no_module_changes_its_input_and_no_weight_is_used_twice(make, shape, parameters):
    model = make()
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    modules = list(model.named_modules(remove_duplicate=False))
    assert len(modules) == len({id(module) for _, module in modules})
    storages = [p.data_ptr() for _, p in model.named_parameters(remove_duplicate=False)]
    assert len(storages) == len(set(storages))
    x, _ = batch(shape, 2)
    for module in model:
        before = x.clone()
        after = module(x)
        assert torch.equal(x, before)
        x = after.detach()


def test_blocks_are_one_module_each():
    kinds = {
        models.ResidualBlock: (models.resnet20(CIFAR, 10), 9),
        models.ResidualMLPBlock: (models.residual_mlp(5, 3, 8, depth=6), 6),
        models.TransformerBlock: (models.transformer(97, 64, depth=5), 5),
    }
    for kind, (model, count) in kinds.items():
        assert sum(isinstance(module, kind) for module in model) == count


def norm(x, eps=1e-5):
    """BatchNorm of a fresh module in training."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1), (4, 4, 2)])
def test_a_residual_block_is_its_formula(before, after, stride):
    block = models.ResidualBlock(before, after, stride).double()
    x = torch.randn(3, before, 7, 7, dtype=torch.float64)
    first, second = block.branch[0].weight, block.branch[3].weight
    branch = norm(F.conv2d(norm(F.conv2d(x, first, stride=stride, padding=1)).relu(), second, padding=1))
    same = (before, stride) == (after, 1)
    shortcut = x if same else norm(F.conv2d(x, block.shortcut[0].weight, stride=stride))
    torch.testing.assert_close(block(x), (branch + shortcut).relu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("before", "after", "shortcut"), [(4, 4, "pad"), (4, 8, "pad"), (4, 8, "orthogonal")])
def test_a_pre_activation_block_is_its_formula(before, after, shortcut):
    block = models.PreActivationBlock(before, after, shortcut).double()
    x = torch.randn(3, before, 6, 6, dtype=torch.float64)
    first, second = block.branch[2].weight, block.branch[5].weight
    branch = F.conv2d(
        norm(F.conv2d(norm(x).relu(), first, stride=after // before, padding=1)).relu(), second, padding=1
    )
    expected = x
    if shortcut == "orthogonal":
        projection = block.shortcut.projection[:, :, 0, 0]
        torch.testing.assert_close(
            projection @ projection.t(), torch.eye(after, dtype=torch.float64), atol=1e-6, rtol=0
        )
        expected = torch.einsum("oc,nchw->nohw", projection, F.pixel_unshuffle(x, 2))
    elif before != after:
        means = x.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5))
        expected = torch.cat([means, torch.zeros_like(means)], 1)
    torch.testing.assert_close(block(x), expected + branch, rtol=1e-12, atol=1e-12)


def test_branches_start_as_they_are_told():
    def outputs(start):
        torch.manual_seed(0)
        return [block.branch[3].weight for block in models.residual_mlp(5, 3, 8, depth=4, start=start)[1:5]]

    drawn, scaled, zero = map(outputs, ("torch", "scaled", "zero"))
    assert all(torch.equal(a / 2, b) for a, b in zip(drawn, scaled, strict=True))
    assert not any(weight.any() for weight in zero)


def test_orthogonal_shortcuts_take_sizes_that_halve_twice():
    with pytest.raises(ModelError, match="halves height and width twice, but images are 10x10; set model.shortcut=pad"):
        models.preact_resnet((1, 10, 10), 3)
    assert models.preact_resnet((1, 10, 10), 3, shortcut="pad")(torch.randn(2, 1, 10, 10)).shape == (2, 3)


def test_options_of_the_spec_reach_the_model_and_others_are_refused():
    digits = data.load("digits")
    spec = parse_spec({"model": {"name": "preact_resnet", "depth": 2, "width": 8, "head": "norm"}}).model
    model = models.build_model(spec.name, digits, **spec.options)
    assert sum(isinstance(part, models.PreActivationBlock) for part in model) == 6
    assert (model[0].out_channels, type(model[7])) == (8, nn.BatchNorm2d)
    with pytest.raises(SpecError, match=r"model.shortcut works only with model preact_resnet, not with 'transformer'"):
        parse_spec({"model": {"name": "transformer", "shortcut": "pad"}})


@pytest.mark.parametrize("heads", [1, 4])
def test_a_transformer_block_is_torchs_own_pre_norm_layer_under_a_causal_mask(heads):
    ours = models.TransformerBlock(16, heads).double()
    theirs = nn.TransformerEncoderLayer(
        16, heads, 64, 0.0, F.gelu, batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm1, attention, _ = ours.attention
    norm2, up, _, down, _ = ours.mlp
    pairs = [
        (theirs.norm1, norm1),
        (theirs.norm2, norm2),
        (theirs.linear1, up),
        (theirs.linear2, down),
        (theirs.self_attn.out_proj, attention.out),
    ]
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    theirs.self_attn.in_proj_weight.data.copy_(attention.query_key_value.weight)
    theirs.self_attn.in_proj_bias.data.copy_(attention.query_key_value.bias)
    x = torch.randn(3, 9, 16, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask), rtol=1e-12, atol=1e-12)


def test_a_position_sees_itself_and_those_before_it_only():
    model = models.transformer(97, 64).double()
    x, _ = batch((64,), 2)
    changed = x.clone()
    changed[:, 40] = (x[:, 40] + 1) % 97
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40], rtol=0, atol=1e-12)
    assert (before[:, 40:] - after[:, 40:]).abs().amax((0, 2)).min() > 1e-6
    torch.testing.assert_close(model(x[:, :10]), before[:, :10], rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    model = models.transformer(97, 64, dropout=0.5)
    x, _ = batch((64,), 2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.lenet((784,), 10), r"lenet reads images .* of at least 4x4, but samples have shape \(784,\)"),
        (lambda: models.lenet((1, 3, 28), 10), "at least 4x4"),
        (lambda: models.convnet((3, 7, 32), 10), "convnet reads images .* at least 8x8"),
        (lambda: models.lenet((32, 32, 4), 10), r"shape \(32, 32, 4\); save them as x.transpose\(0, 3, 1, 2\)"),
        (lambda: models.resnet20((28, 28), 10), "resnet20 reads images"),
        (lambda: models.transformer(97, 64, width=30, heads=4), "width 30 with 4 heads; width must be a multiple"),
    ],
)
def test_what_a_network_cannot_read_is_named(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def samples(shape, tokens=None, positions=1, outputs=10):
    return SimpleNamespace(name="toy", shape=shape, outputs=outputs, tokens=tokens, positions=positions)


@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "transformer"])
@pytest.mark.parametrize("shape", [MNIST, CIFAR, (1, 8, 8)])
def test_each_model_of_the_table_reads_images(name, shape):
    model = models.build_model(name, samples(shape, outputs=7))
    assert type(model) is nn.Sequential
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_dense_models_read_samples_of_any_shape_and_a_data_set_will_do():
    assert isinstance(models.build_model("mlp", samples((5,)))[0], nn.Linear)
    assert isinstance(models.build_model("residual_mlp", samples((5, 6)))[0], nn.Flatten)
    digits = data.load("digits", limit=4)
    x = torch.from_numpy(digits.train_x).float().view(4, *digits.shape)
    assert models.build_model("lenet", digits)(x).shape == (4, 10)


def test_the_transformer_fits_stdlib_and_other_labels():
    stdlib = data.load("stdlib", limit=3)
    x = torch.from_numpy(stdlib.train_x).long()
    assert models.build_model("transformer", stdlib)(x).shape == (3, 64, 97)
    tagged = data.from_arrays((np.zeros((2, 6), np.uint8), np.tile(np.arange(6), (2, 1))), tokens=5)
    assert models.build_model("transformer", tagged)(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 6)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("resnet", samples(CIFAR), "model 'resnet' is not one of mlp, .*; did you mean 'resnet20'"),
        (
            "lenet",
            samples((64,), tokens=97, positions=64),
            "toy has tokens from a vocabulary of 97 with 64 labels each; choose",
        ),
        ("mlp", samples((64, 3), positions=64), "toy has sequences with 64 labels each"),
        ("transformer", samples(MNIST), r"toy has quantities of shape \(1, 28, 28\) with 1 labels each"),
        ("transformer", samples((64,), tokens=97), "toy has tokens of shape .* with 1 labels each"),
    ],
)
def test_a_model_that_does_not_suit_the_data_is_refused(name, given, message):
    with pytest.raises(SpecError, match=message):
        models.build_model(name, given)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Writes the module ``mine.nets`` beside the user; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()

    def write(text):
        (tmp_path / "mine" / "nets.py").write_text(f"import torch, sys\nfrom torch import nn\n{text}\n")

    yield write
    for name in ("mine", "mine.nets"):
        sys.modules.pop(name, None)


def test_a_users_own_function_is_found_beside_her(nets, tmp_path):
    nets("def make(): return nn.Sequential(nn.Linear(3, 2))")
    for model in (models.load_model("mine.nets:make"), models.build_model("mine.nets:make", samples((3,)))):
        assert model(torch.zeros(1, 3)).shape == (1, 2)
    assert sys.path[-1] == str(tmp_path)  # last, so that a folder named torch there shadows nothing


def test_a_class_is_called_like_a_function(nets):
    nets("class Net(nn.Sequential):\n    def __init__(self): super().__init__(nn.Linear(3, 2))")
    assert type(models.load_model("mine.nets:Net")).__name__ == "Net"


@pytest.mark.parametrize(
    ("path", "text", "error", "message"),
    [
        ("nets", "", SpecError, "not of the form package.module:function"),
        ("mine.nets:", "", SpecError, "not of the form"),
        (":make", "", SpecError, "not of the form"),
        ("mine/nets.py:make", "", SpecError, "not of the form"),
        ("yours.nets:make", "", SpecError, "there is no module 'yours'; run in its folder"),
        ("mine.net:make", "", SpecError, "there is no module 'mine.net'"),
        ("mine.nets.deep:make", "", SpecError, "there is no module 'mine.nets.deep'"),
        ("mine.nets:make", "import not_there", ModelError, "importing mine.nets raised ModuleNotFoundError: .*not_th"),
        ("mine.nets:make", "def", ModelError, "importing mine.nets raised SyntaxError"),
        ("mine.nets:make", "sys.exit(3)", ModelError, "importing mine.nets raised SystemExit: 3"),
        ("mine.nets:make", "def maker(): pass", SpecError, r"nets\.py has no function 'make'; did you mean 'maker'"),
        ("mine.nets:make", "make = nn.Linear(2, 2)", ModelError, "raised TypeError"),
        ("mine.nets:make", "make = 3", SpecError, "make is a int; give the name of a function"),
        (
            "mine.nets:make",
            "def make(width): pass",
            ModelError,
            r"make\(\) raised TypeError: .*'width'; it is called w",
        ),
        ("mine.nets:make", "def make(): raise KeyError('k')", ModelError, r"make\(\) raised KeyError: 'k'"),
        ("mine.nets:make", "def make(): pass", ModelError, "returned a NoneType; it must return a torch.nn.Module"),
        ("mine.nets:make", "def make(): return nn.Linear", ModelError, "returned the class Linear"),
    ],
)
def test_what_is_wrong_with_a_users_model_is_one_clear_error(nets, path, text, error, message):
    nets(text)
    with pytest.raises(error, match=message):
        models.load_model(path)


def test_a_transformer_learns_the_text_it_is_shown():
    torch.manual_seed(0)
    stdlib = data.load("stdlib", limit=8)
    x, y = torch.from_numpy(stdlib.train_x).long(), torch.from_numpy(stdlib.train_y)
    model = models.build_model("transformer", stdlib)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
    shares = y.flatten().bincount() / y.numel()
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    assert loss.item() < 0.8 * entropy  # what the best answer that ignores the text before would reach
