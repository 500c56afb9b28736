"""The module that is trained is the module that was given: by the API, to the last bit, or refused by name."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import in_turn
from torch import nn
from zoo import Shared

import distfa
from distfa.data import load
from distfa.errors import LayerError, ModelError, SpecError
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.settings import parse_spec

ROWS, WIDTH, CLASSES = 40, 6, 3


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS + 20, WIDTH)).astype(np.float32)
    y = np.argmax(x[:, :CLASSES] + 0.1 * x[:, CLASSES:], axis=1)
    return (x[:ROWS], y[:ROWS]), (x[ROWS:], y[ROWS:])


@pytest.fixture
def fit(data, tmp_path):
    """Train a model for a few steps; returns the result."""
    count = iter(range(100))

    def fit(model, train=None, test=None, **settings):
        given = {
            "engine": "serial",
            "rule": "fa",
            "epochs": 3,
            "batch_size": 10,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "run_dir": str(tmp_path / f"run-{next(count)}"),
            **settings,
        }
        return distfa.Trainer(model, **given).fit(train or data[0], test or data[1])

    return fit


def three(middle=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), middle or nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def moved(before, model):
    """Names of what is no longer as it was, to the last bit."""
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def figures(model, data):
    """(loss, accuracy) of a user's own model on the test split."""
    x, y = (torch.from_numpy(side) for side in data[1])
    mode = {name: m.training for name, m in model.named_modules()}
    model.eval()
    with torch.no_grad():
        out = model(x)
    for name, m in model.named_modules():
        m.training = mode[name]
    return F.cross_entropy(out, y).item(), (out.argmax(-1) == y).double().mean().item()


def assert_reported(model, result, data):
    loss, accuracy = figures(model, data)
    assert result.test_loss == pytest.approx(loss, rel=1e-5)
    assert result.test_accuracy == pytest.approx(accuracy)


# -- honoured --------------------------------------------------------------------------------------


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x).sin()


class Branch(nn.Module):
    """Nothing but parameters of its own, and a forward that depends on its input's numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return torch.where(x > 0, x * self.a, x * self.b) + x.mean(1, keepdim=True)


class Doubled(nn.Sequential):
    def forward(self, x):
        return x + 2 * super().forward(x)


class Local:
    """A class made within another, as in a notebook's cell or a test."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

        def forward(self, x):
            return x + self.down(F.gelu(self.up(x)))


def batch_normed():
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))


ODD = {
    "shared-within": Shared,
    "linear-subclass": lambda: Twice(6, 6),
    "own-parameters": Branch,
    "sequential-subclass": lambda: Doubled(nn.Linear(6, 6), nn.Tanh()),
    "local-class": Local.Net,
    "batch-norm": batch_normed,
    "dropout": lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.2)),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.TransformerEncoderLayer(2, 1, 4, batch_first=True), nn.Flatten()
    ),
}


@in_turn(kind=ODD, rule=("dfa", "bp", "fa"))
def test_the_users_own_model_gives_what_the_run_reports(kind, rule, fit, data):
    rule = "dfa" if (kind, rule) == ("own-parameters", "fa") else rule  # no feedback stands in for its parameters
    model = three(ODD[kind]())
    before = state_of(model)
    result = fit(model, rule=rule)
    assert moved(before, model) >= {"0.weight", "2." + next(iter(model[2].state_dict())), "4.weight"}
    assert_reported(model, result, data)
    assert all(module.training for module in model.modules())
    assert all(not p.is_shared() and p.requires_grad and p.grad is None for p in model.parameters())


def test_bp_on_an_odd_module_is_plain_torch_on_it(fit, data):
    """One layer with a parameter used twice, one with its own forward: the whole set as one batch, 20 steps."""
    model = nn.Sequential(Twice(6, 6), Shared(), nn.Tanh(), nn.Linear(6, 3)).double()
    own = copy.deepcopy(model)
    fit(model, rule="bp", dtype="float64", epochs=20, batch_size=ROWS)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9)
    x, y = (torch.from_numpy(side) for side in data[0])
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(own(x.double()), y).backward()
        optimizer.step()
    for key, value in own.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-9, atol=1e-12)


def test_numbers_shared_within_one_module_stay_shared(fit):
    model = three(Shared())
    fit(model)
    assert model[2].once is model[2].again
    assert torch.equal(model.state_dict()["2.once.weight"], model.state_dict()["2.again.weight"])


def test_one_activation_object_in_two_places_is_used_in_both(fit, data):
    torch.manual_seed(0)
    tanh = nn.Tanh()
    model = nn.Sequential(nn.Linear(6, 6), tanh, nn.Linear(6, 6), tanh, nn.Linear(6, 3))
    other = nn.Sequential(*(nn.Tanh() if m is tanh else copy.deepcopy(m) for m in (model[i] for i in range(5))))
    assert_reported(model, fit(model, init="given"), data)
    fit(other, init="given")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("init", ["aligned", "given", "random"])
@pytest.mark.parametrize("rule", ["bp", "fa", "kp", "usf", "dfa"])
def test_what_is_frozen_stays_to_the_last_bit_and_the_rest_trains(rule, init, fit, data):
    model = three()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    before = state_of(model)
    result = fit(model, rule=rule, init=init, ledger={"every": 1}, probe={"every": 2})
    assert moved(before, model) == {"2.weight", "4.weight", "4.bias"}
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, False, True, True]
    assert result.ledger["violations"] == 0
    assert_reported(model, result, data)


def test_a_frozen_block_in_the_middle_lets_errors_through(fit):
    model = three(batch_normed())
    model[2].requires_grad_(False)
    before = state_of(model)
    fit(model)
    assert moved(before, model) == {
        *("0.weight", "0.bias", "4.weight", "4.bias"),
        *("2.1.running_mean", "2.1.running_var", "2.1.num_batches_tracked"),  # torch moves them in training, too
    }


def test_a_single_module_in_eval_mode_stays_in_it(fit, data):
    model = three(batch_normed())
    model[2][1].running_mean.fill_(0.3)
    model[2][1].eval()
    before = state_of(model)
    result = fit(model)
    assert not moved(before, model) & {"2.1.running_mean", "2.1.running_var", "2.1.num_batches_tracked"}
    assert "2.1.weight" in moved(before, model)
    assert [m.training for m in model[2]] == [True, False]
    assert_reported(model, result, data)


def test_a_lazy_module_that_has_seen_a_batch_is_trained(fit, data):
    model = three(nn.LazyLinear(6))
    model(torch.from_numpy(data[0][0]))
    assert_reported(model, fit(model), data)


def test_a_double_model_trains_in_float64_and_a_float_one_may(fit, data):
    model = three(Local.Net())
    double = copy.deepcopy(model).double()
    fit(model, dtype="float64")
    fit(double, dtype="float64")
    assert model[2].up.weight.dtype == torch.float32
    for key, value in double.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.float())


def test_a_users_function_that_uses_a_weight_changed_trains_by_bp_and_direct_rules(fit, data):
    for rule in ("bp", "dfa", "drtp"):
        model = three(Scaled())
        assert_reported(model, fit(model, rule=rule), data)


# -- refused before anything starts ----------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x):
        return F.linear(x, self.lin.weight * 2, self.lin.bias)


def tied():
    model = three()
    model[2].weight = model[0].weight
    return model


def used_twice():
    linear = nn.Linear(6, 6)
    return nn.Sequential(linear, nn.ReLU(), linear, nn.ReLU(), nn.Linear(6, 3))


def hooked():
    model = three()
    model[0].register_forward_hook(lambda module, given, out: out * 2)
    return model


REFUSED = {
    "tied": (tied, {}, r"'2.weight' of layer 2 is '0.weight' of layer 1: they are tied, .*put both into one module"),
    "used twice": (
        used_twice,
        {},
        r"'2.weight' of layer 2 is '0.weight' of layer 1: they are tied, or one module is used twice",
    ),
    "weight_norm": (
        lambda: three(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))),
        {},
        r"module '2' is parametrised .*remove_parametrizations",
    ),
    "hook": (hooked, {}, r"module '0' \(Linear\) has a hook .*remove it"),
    "lazy": (lambda: three(nn.LazyLinear(6)), {}, r"module '2' is a LazyLinear.*run one batch through the model first"),
    "half": (lambda: three().half(), {}, r"parameter '0.weight' is float16, .*float32; call model.float\(\)"),
    "bfloat16": (lambda: three().bfloat16(), {}, r"parameter '0.weight' is bfloat16, .*call model.float\(\)"),
    "double": (lambda: three().double(), {}, r"parameter '0.weight' is float64, .*or set dtype: float64"),
    "eval": (lambda: three(batch_normed()).eval(), {}, r"in eval mode, where module '2.1' .*model.train\(\)"),
    "lstm": (
        lambda: three(nn.Sequential(nn.Unflatten(1, (3, 2)), nn.LSTM(2, 2, batch_first=True))),
        {},
        r"layer 2 \(2 Sequential, 3 ReLU\) cannot take samples of shape \(6,\): .* must be Tensor, not tuple",
    ),
    "frozen": (lambda: three().requires_grad_(False), {}, r"every parameter of the model is frozen"),
    "changed weight": (
        lambda: three(Scaled()),
        {},
        r"'2.lin.weight' of layer 2 is not used directly .*use bp or a dir",
    ),
    "own call": (lambda: Called(*three()), {}, r"the model is a Called with its own __call__"),
    "recurrent": (
        lambda: three(Recurrent()),
        {},
        r"'2.lstm.weight_.h_l0' of layer 2 is not one of those: .*use bp or a d",
    ),
    "own matrix": (
        lambda: three(Mixing(6, 6)),
        {"rule": "kp"},
        r"rule 'kp' .* but '2.m' of layer 2 is not one of those",
    ),
    "beside a Linear": (
        lambda: three(nn.Sequential(nn.Linear(6, 6), Mixing(6, 6))),
        {"rule": "usf"},
        r"but '2.1.m' of layer 2 is not one of those",
    ),
    "float32 in a mixed run": (
        lambda: three(Floating(6, 6)),
        {"dtype": "bfloat16"},
        r"layer 2 \(2 Floating, 3 ReLU\) cannot run with dtype: bfloat16.* its output is torch.float32. .*or use d",
    ),
    "two types in a mixed run": (
        lambda: three(Meeting(6, 6)),
        {"dtype": "bfloat16"},
        r"layer 2 \(2 Meeting, 3 ReLU\) cannot run with dtype: bfloat16.*RuntimeError: .*or use dtype: float32",
    ),
    "rank": (lambda: three(Shared()), {"feedback__rank": 2}, r"feedback.rank is 2, .*layer 2 is not; leave it out"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_trained_as_something_else_is_refused_before_anything_starts(kind, fit, tmp_path):
    make, settings, message = REFUSED[kind]
    model = make()
    kinds = (ModelError, SpecError)
    before = {} if kind == "lazy" else state_of(model)
    with pytest.raises(kinds, match=message):
        fit(model, **settings)
    assert list(tmp_path.iterdir()) == []
    assert kind == "lazy" or not moved(before, model)


APART = {
    "norm": lambda: nn.Sequential(nn.LayerNorm(6), nn.Tanh()),
    "norm over two axes": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LayerNorm((2, 3)), nn.Flatten()),
    "scale": lambda: Mixing(6),
    "one number": lambda: Mixing(1),
}


@pytest.mark.parametrize("kind", APART)
def test_a_layer_that_keeps_numbers_apart_has_no_weight_to_stand_in_for(kind, fit):
    assert fit(three(APART[kind]())).steps == 12


@pytest.mark.parametrize("rule", ["bp", "dfa", "drtp"])
def test_what_has_no_place_for_feedback_is_trained_where_none_is_needed(rule, fit):
    for make in (Recurrent, lambda: Mixing(6, 6)):
        assert fit(three(make()), rule=rule).steps == 12


# -- the net under all of it -----------------------------------------------------------------------

CALLS = {"scale": 1.0}


class Sly(nn.Sequential):
    """A Sequential by its class's forward, which goes through something else, too."""

    def __iter__(self):
        yield from super().__iter__()
        yield lambda x: x + 1.0


class Called(nn.Sequential):
    """Its forward is Sequential's, and what calls it is not."""

    def __call__(self, x):
        return super().__call__(x) + 1.0


class Recurrent(nn.Module):
    """An LSTM, of which the output alone goes on."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 2, batch_first=True)

    def forward(self, x):
        return self.lstm(x.view(-1, 3, 2))[0].flatten(1)


class Mixing(nn.Module):
    """A matrix of its own; or one number, or one for every input, which keep them apart."""

    def __init__(self, *shape):
        super().__init__()
        self.m = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x @ self.m if self.m.dim() == 2 else x * self.m


class Floating(nn.Linear):
    """Adds numbers of float32, whatever its input is."""

    def forward(self, x):
        return super().forward(x) + torch.ones(6, dtype=torch.float32)


class Meeting(nn.Linear):
    """Has a product of two types in its forward."""

    def forward(self, x):
        return super().forward(x) @ torch.eye(6)


class Seesaw(nn.Linear):
    """Does one thing in training and in the layers, another in the user's model once training is over."""

    def forward(self, x):
        return super().forward(x) * CALLS["scale"]


def test_the_audit_catches_a_forward_that_depends_on_more_than_its_module(fit, monkeypatch):
    from distfa.intake.subject import Subject

    model, plain = three(Seesaw(6, 6)), Subject.audit

    def later(self, *args):
        CALLS["scale"] = 1.5  # the weather has changed since
        plain(self, *args)

    monkeypatch.setattr(Subject, "audit", later)
    monkeypatch.setitem(CALLS, "scale", 1.0)
    with pytest.raises(LayerError, match="does not compute what the layers of the run compute"):
        fit(model)


def test_a_model_with_dropout_and_batch_norm_passes_the_audit_in_every_dtype(fit):
    for settings in ({}, {"dtype": "float64"}, {"dtype": "bfloat16"}):
        assert fit(three(nn.Sequential(batch_normed(), nn.Dropout(0.3))), **settings).steps == 12


def test_normalisations_that_all_move_alike_raise_no_false_alarm(tmp_path):
    """A ResNet's BatchNorms start as ones and Adam's first step is +-lr for all: 5e-6 once stood for a broken law."""
    settings = {"max_steps": 1, "ledger": {"every": 1}, "optimizer": {"name": "adam", "lr": 1e-3}}
    spec = parse_spec(
        {"engine": "serial", "rule": "fa", "model": "resnet20", "run_dir": str(tmp_path / "run"), **settings}
    )
    digits = load("digits")
    subject = subject_for(spec, digits)
    result, _ = run(spec, subject.network, digits, model=subject.model)
    assert result.ledger["entries"] == 10
    assert result.ledger["violations"] == 0
