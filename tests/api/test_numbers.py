"""Numbers that are not float32 parameters keep their dtype and their bits: trained, resumed, exported."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import assert_same_bits
from torch import nn

import distfa
from distfa.core.base import order
from distfa.data import from_arrays
from distfa.intake.subject import subject_for
from distfa.run.disk.tensor_files import tensors_from_bytes, tensors_to_bytes
from distfa.run.run import run
from distfa.settings import parse_spec

ROWS = 40


class Kinds(nn.Module):
    """A rotary embedding, and constants of other kinds beside it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.arange(3.0)))
        self.register_buffer("fine", torch.polar(torch.ones(3), torch.arange(3.0)).to(torch.complex128))
        self.register_buffer("third", torch.tensor(1 / 3, dtype=torch.float64))
        self.register_buffer("short", torch.full((6,), 1 / 3, dtype=torch.float16))
        self.register_buffer("on", torch.arange(6) != 2)
        self.register_buffer("scale", torch.full((6,), 1 / 3))

    def forward(self, x):
        y = self.linear(x) * self.scale + self.short.to(x.dtype)
        pairs = torch.view_as_complex(y.float().view(-1, 3, 2))
        turned = torch.view_as_real(pairs * self.turn * self.fine.to(torch.complex64)).flatten(1)
        return turned.to(x.dtype) * self.on * self.third


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), Kinds(), nn.Linear(6, 3))


KEPT = {"turn": "complex64", "fine": "complex128", "third": "float64", "short": "float16", "on": "bool"}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 5)).astype(np.float32), rng.integers(0, 3, ROWS)


@pytest.fixture
def settings(tmp_path):
    return {
        "engine": "serial",
        "rule": "bp",
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"name": "adam", "lr": 0.01},
        "run_dir": str(tmp_path / "run"),
    }


def dtypes(state):
    return {name: str(state[f"2.{name}"].dtype).removeprefix("torch.") for name in (*KEPT, "scale", "linear.weight")}


def torchs_own(model, data, trainer):
    """The same epochs in plain torch, on the same batches."""
    made = from_arrays(data)
    x = torch.from_numpy((made.train_x - made.mean) / made.std).to(next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch in order.batches(trainer.spec.recipe(trainer.network), ROWS):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch.parts[0]]), torch.from_numpy(made.train_y)[batch.parts[0]]).backward()
        optimizer.step()
    return model.state_dict()


def by_name(settings, data, **changes):
    """(result, weights) of the run that ``--model`` starts."""
    spec, dataset = parse_spec({**settings, **changes, "model": {"name": f"{__name__}:make"}}), from_arrays(data)
    subject = subject_for(spec, dataset)
    return run(spec, subject.network, dataset, model=subject.model)


@pytest.mark.parametrize(
    ("dtype", "follows"), [("float32", "float32"), ("float64", "float64"), ("bfloat16", "float32")]
)
def test_only_what_has_the_parameters_dtype_follows_the_run(data, settings, dtype, follows):
    _, weights = by_name(settings, data, dtype=dtype)
    given = make().state_dict()
    assert dtypes(weights) == {**KEPT, "scale": follows, "linear.weight": follows}
    for name in KEPT:
        assert torch.equal(weights[f"2.{name}"], given[f"2.{name}"]), name


def test_a_model_of_all_kinds_is_trained_as_torch_trains_it(data, settings):
    model, given = make(), make()
    trainer = distfa.Trainer(model, init="given", **settings)
    trainer.fit(data)
    for name, value in torchs_own(given, data, trainer).items():
        assert value.dtype == model.state_dict()[name].dtype
        assert torch.allclose(model.state_dict()[name].to(torch.complex128), value.to(torch.complex128), atol=1e-5), (
            name
        )


def test_an_exported_model_of_all_kinds_gives_its_own_outputs(data, settings):
    model = make()
    trainer = distfa.Trainer(model, **settings)
    result = trainer.fit(data)
    exported = torch.export.load(distfa.export(result.run_dir, model=make())).module()
    made = from_arrays(data)
    normalised = torch.from_numpy(((made.train_x - made.mean) / made.std).astype(np.float32))
    with torch.no_grad():
        assert torch.allclose(exported(torch.from_numpy(data[0])), model(normalised), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_resumed_run_of_all_kinds_ends_with_the_same_bits(data, settings, dtype, tmp_path):
    settings |= {"checkpoint": {"every": 3, "seconds": 0}}
    _, whole = by_name(settings, data, dtype=dtype)
    cut = {**settings, "run_dir": str(tmp_path / "cut"), "dtype": dtype, "model": {"name": f"{__name__}:make"}}
    spec, dataset = parse_spec(cut), from_arrays(data)
    subject = subject_for(spec, dataset)

    def stop(progress):
        if progress.tally.steps >= 7:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="interrupted after 7 steps"):
        run(spec, subject.network, dataset, model=subject.model, observer=stop)
    _, resumed = run(spec, subject.network, dataset, model=subject.model, resume=tmp_path / "cut")
    assert_same_bits(resumed, whole)
    assert dtypes(resumed) == dtypes(whole)


def test_files_hold_every_dtype_every_order_and_shared_memory():
    whole = torch.randn(6, dtype=torch.complex128)
    tensors = {
        "whole": whole,
        "part": whole[:2],
        "again": whole,
        "turned": torch.randn(3, 2).t(),
        "one": torch.ones(()),
    }
    found = tensors_from_bytes(tensors_to_bytes(tensors, {"distfa": "1"}))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in tensors.items())


# -- a weight or bias that is a buffer is not trained -------------------------------------------


def as_buffer(linear, name):
    value = getattr(linear, name).detach().clone()
    delattr(linear, name)
    linear.register_buffer(name, value)
    return linear


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "usf", "kp"])
def test_a_linears_buffer_is_not_trained(data, settings, name, rule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), as_buffer(nn.Linear(6, 6), name), nn.ReLU(), nn.Linear(6, 3))
    before = getattr(model[2], name).clone()
    result = distfa.Trainer(model, **{**settings, "rule": rule}, ledger={"every": 1}).fit(data)
    assert torch.equal(getattr(model[2], name), before)
    assert result.ledger["violations"] == 0


def test_other_numbers_of_a_linear_or_activation_are_kept(data, settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].register_buffer("seen", torch.arange(3))
    model[1].register_buffer("limit", torch.tensor(6.0))
    assert [layer.plain for layer in distfa.split(model, (5,)).layers] == [False, True]
    distfa.Trainer(model, **settings).fit(data)
    assert (model[0].seen.tolist(), model[1].limit.item()) == ([0, 1, 2], 6.0)
