"""A model that is no Sequential has all that a Sequential has: its run, predictions, files, resume, its own object."""

import copy

import numpy as np
import pytest
import torch
from forwards import GPT, Images
from safetensors.torch import load_file

import distfa
from distfa import data
from distfa.errors import ModelError
from distfa.run.disk.run_dir import WEIGHTS, read_about


@pytest.fixture(scope="module")
def digits():
    every = data.load("digits")
    x = ((every.train_x - every.mean) / every.std).reshape(-1, 1, 8, 8).astype(np.float32)
    return (x[:160], every.train_y[:160]), (x[160:260], every.train_y[160:260])


def settings(where, **changes):
    return {
        "engine": "serial",
        "epochs": 3,
        "batch_size": 16,
        "optimizer": {"lr": 0.01},
        "checkpoint": {"every": 4, "seconds": 0},
        "run_dir": str(where),
        **changes,
    }


def images():
    torch.manual_seed(0)
    return Images()


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    where = tmp_path_factory.mktemp("whole") / "run"
    model = images()
    trainer = distfa.Trainer(model, rule="dfa", layers=2, **settings(where))
    trainer.fit(*digits, normalised=True)
    return where, model, trainer


def test_it_is_trained_in_place_under_its_own_keys(whole):
    where, model, trainer = whole
    kept, before = load_file(where / WEIGHTS), images().state_dict()
    assert kept.keys() == before.keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in kept.items())
    same = {key for key, value in before.items() if torch.equal(value, kept[key])}
    assert same == {"gain", "unused.weight", "unused.bias"}
    assert trainer.result.test_accuracy > 0.6
    assert model.training


def test_the_run_directory_has_the_choice_of_layers(whole):
    where, _, trainer = whole
    assert "layers: 2" in (where / "spec.yaml").read_text()
    assert [layer["cost"] for layer in read_about(where)["network"]["layers"]] == [
        layer.cost for layer in trainer.network.layers
    ]
    assert str(trainer.network).splitlines()[0].endswith("operations per sample")


def test_predictions_scores_and_files_are_those_of_the_model(whole, digits, tmp_path):
    where, model, trainer = whole
    test = digits[1]
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(torch.from_numpy(test[0]))
    assert torch.equal(trainer.predict(test[0], normalised=True), expected)
    found = distfa.predict(where, test[0], model=model, normalised=True)
    torch.testing.assert_close(found.outputs, expected)
    scored = distfa.evaluate(where, arrays=test, model=model)
    assert scored.accuracy == trainer.result.test_accuracy
    program = torch.export.load(distfa.export(where, tmp_path / "model.pt2", model=images()))
    raw = test[0][:5]
    torch.testing.assert_close(program.module()(torch.from_numpy(raw).flatten(1).view(5, 1, 8, 8)), expected[:5])
    again = distfa.Trainer(images(), layers=2, **settings(tmp_path / "again")).load(trainer.save(tmp_path / "weights"))
    assert torch.equal(again.predict(test[0], normalised=True), expected)
    assert len(again.network) == 2


class Ends(distfa.Callback):
    def on_step(self, at):
        if at.step == 14:
            raise KeyboardInterrupt


def test_a_run_that_is_cut_short_goes_on_as_the_whole(whole, digits, tmp_path):
    where, how = tmp_path / "cut", {"rule": "dfa", "layers": 2, **settings(tmp_path / "cut")}
    with pytest.raises(KeyboardInterrupt):
        distfa.Trainer(images(), callbacks=Ends(), **how).fit(*digits, normalised=True)
    with pytest.raises(distfa.errors.CheckpointError, match=r"model\.layers is 3 now but was 2"):
        distfa.Trainer(images(), **{**how, "layers": 3}).fit(*digits, normalised=True, resume=where)
    model = images()
    distfa.Trainer(model, **how).fit(*digits, normalised=True, resume=where)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in whole[1].state_dict().items())


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_gpt_reads_tokens_in_every_dtype(dtype, tmp_path):
    torch.manual_seed(0)
    model, tokens = GPT(blocks=1), np.random.default_rng(0).integers(0, 11, (24, 6))
    trainer = distfa.Trainer(model, rule="dfa", **settings(tmp_path / "run", dtype=dtype, epochs=1))
    trainer.fit((tokens, np.roll(tokens, -1, axis=1)))
    assert trainer.network.tokens
    assert len(trainer.network) == 4
    assert trainer.predict(tokens[:3]).shape == (3, 6, 11)


def test_a_tied_head_is_refused_before_anything_is_written(tmp_path):
    tokens = np.zeros((24, 6), np.int64)
    with pytest.raises(ModelError, match="untied head"):
        distfa.Trainer(GPT(tied=True), **settings(tmp_path / "run")).fit((tokens, tokens))
    assert list(tmp_path.iterdir()) == []
