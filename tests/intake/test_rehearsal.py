"""What a layer cannot do is known before the start: the run's dtype, and micro-batches of one row."""

import numpy as np
import pytest
import torch
from torch import nn

import distfa
from distfa.errors import ModelError


def normed(**kept):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, **kept), nn.ReLU(), nn.Linear(5, 3))


def samples(rows):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 3, rows)


@pytest.fixture
def fit(tmp_path):
    count = iter(range(9))

    def fit(model, rows, test=None, **settings):
        given = {"engine": "serial", "rule": "fa", "epochs": 2, "batch_size": 16}
        given |= {"run_dir": str(tmp_path / f"run-{next(count)}")}
        return distfa.Trainer(model, **given | settings).fit(samples(rows), test and samples(test))

    return fit


ONE_ROW = (
    r"layer 1 \(0 Linear, 1 BatchNorm1d, 2 ReLU\) cannot train on one row \(ValueError: Expected more than 1 value"
)


@pytest.mark.parametrize(
    ("rows", "settings", "where"),
    [
        (33, {}, "33 samples in batches of 16; set batch_size to 17.*drop_last=True"),
        (32, {"batch_size": 4, "micro_batches": 4}, "a batch of 4 in 4 micro-batches has parts of one; set batch_size"),
        (38, {"micro_batches": 6}, r"the last batch of an epoch has one: 38 samples in batches of 16"),
        (32, {"batch_size": 1}, "a batch of 1 in 1 micro-batches has parts of one; set batch_size to 2"),
        (32, {"rule": "dfa", "feedback": {"renew": {"every": 2, "rows": 1}}}, "set feedback.renew.rows to 2"),
    ],
)
def test_batch_normalisation_of_one_row_is_refused_before_the_start(fit, tmp_path, rows, settings, where):
    """It failed at the end of the first epoch."""
    with pytest.raises(ModelError, match=f"{ONE_ROW}.*{where}"):
        fit(normed(), rows, **settings)
    assert not (tmp_path / "run-0").exists()


def test_what_it_says_to_do_works(fit):
    assert fit(normed(), 33, batch_size=17).steps == 4
    assert fit(normed(), 33, max_steps=2).steps == 2  # the short batch never comes
    model = normed()
    model[1].eval()  # as a module that is kept in eval mode it takes one row, as in torch
    assert fit(model, 33).steps == 6


def test_one_row_to_evaluate_is_taken_where_torch_takes_it(fit):
    assert fit(normed(), 32, test=1).test_loss is not None
    with pytest.raises(ModelError, match=r"cannot evaluate one row \(ValueError.*use one sample more or less"):
        fit(normed(track_running_stats=False), 32, test=1)
    assert fit(normed(track_running_stats=False), 32, test=2).test_loss is not None


class Makes(nn.Module):
    """Makes a tensor of torch's default dtype, whatever its input has."""

    def forward(self, x):
        return nn.functional.linear(x, torch.eye(5))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_layer_that_cannot_run_in_the_runs_dtype_is_refused_before_the_start(fit, tmp_path, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), Makes(), nn.Linear(5, 3))
    with pytest.raises(ModelError, match=rf"layer 1 .* cannot run with dtype: {dtype}, .*dtype=x.dtype"):
        fit(model, 32, dtype=dtype)
    assert not (tmp_path / "run-0").exists()
    assert fit(model, 32).steps == 4
