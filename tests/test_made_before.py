"""Runs that an earlier distfa made go on with this one and end with the same bits; finished ones can still be used.

``made_before.py`` says how they were made. A change that makes these tests fail breaks the runs that users have.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import here
from made_before import MADE, SAVED, TRAIN, images, known, rounding, samples, trainer
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("shared_ray")


FIGURES = ("steps", "epochs", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "ledger", "alignment")


@pytest.fixture
def made(request, tmp_path):
    """A copy of what was made one way."""
    return shutil.copytree(MADE / request.param, tmp_path / "made")


def told(run):
    """What a run's directory says of its end."""
    result = json.loads((run / "run.json").read_text())["result"]
    return {name: result[name] for name in FIGURES}


def require_same_end(weights, figures, made, whole_now):
    """The same bits as the whole run had then, where sums are rounded as they were then.

    On another processor, or with another torch, the steps before the checkpoint were rounded in another way than those
    after it, so that no run can have the same bits. There the end must be close to that of a whole run made now: these
    runs converge, which keeps the difference near float32 round-off; a state that is lost or mixed up moves weights by
    much more.
    """
    if json.loads((made / "whole.json").read_text())["rounding"] == rounding():
        expected = load_file(made / "whole" / "weights.safetensors")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert figures == told(made / "whole")
        return
    whole_now(made / "now")
    expected = load_file(made / "now" / "weights.safetensors")
    assert weights.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(weights[key], expected[key], rtol=1e-3, atol=1e-3)
    assert figures["steps"] == told(made / "now")["steps"]


@pytest.mark.parametrize(
    ("made", "engine"),
    [("serial", "serial"), ("ray", "serial"), ("ray", "ray")],
    indirect=["made"],
    ids=["serial", "ray-goes-on-serially", "ray"],
)
def test_a_run_that_was_cut_short_goes_on_and_ends_as_the_whole_did(made, engine, request):
    way = request.node.callspec.params["made"]
    here("train", "--resume", "cut", "--engine", engine, "--set", "ray.workers=1", cwd=made)  # three began it
    weights = load_file(made / "cut" / "weights.safetensors")
    options = (*TRAIN[way].split(), "--engine", "serial")
    require_same_end(weights, told(made / "cut"), made, lambda to: here("train", *options, "--run-dir", to, cwd=made))


@pytest.mark.parametrize("made", ["fit"], indirect=True)
def test_a_fit_that_was_cut_short_goes_on_for_its_callbacks_too(made):
    fitted = trainer()
    fitted.fit(*samples(), resume=made / "cut")
    weights = load_file(made / "cut" / "weights.safetensors")
    require_same_end(weights, told(made / "cut"), made, lambda to: trainer(to).fit(*samples()))
    then = json.loads((made / "whole.json").read_text())
    now = known(fitted)
    assert now["history"][-1]["epoch"] == then["known"]["history"][-1]["epoch"]
    assert now["callbacks"][-1] == then["known"]["callbacks"][-1]  # the sum over all steps: exact on any machine
    if then["rounding"] == rounding():
        assert now == then["known"]


@pytest.mark.parametrize("made", ["serial", "ray"], indirect=True)
def test_a_finished_run_is_read_by_every_command(made):
    then = json.loads((made / "whole.json").read_text())
    assert json.loads(here("status", "whole", "--json", cwd=made).stdout)["status"] == "finished"
    found = json.loads(here("eval", "whole", "--json", cwd=made).stdout)
    loss = pytest.approx(then["eval"]["loss"], rel=1e-5)  # another processor rounds in another way
    assert found == then["eval"] | {"loss": loss, "metrics": {}}  # which came later
    assert json.loads(here("predict", "whole", "images.npy", "--json", cwd=made).stdout) == then["predict"]
    here("report", "whole", "cut", cwd=made)
    here("watch", "whole", "--once", cwd=made)


@pytest.mark.parametrize("made", ["serial"], indirect=True)
def test_a_finished_run_is_exported_as_it_predicts(made):
    here("predict", "whole", "images.npy", "--out", "outputs.npy", cwd=made)
    here("export", "whole", "--out", "model.pt2", cwd=made)
    exported = torch.export.load(made / "model.pt2").module()(torch.tensor(images()).reshape(-1, 1, 8, 8))
    np.testing.assert_allclose(exported.detach(), np.load(made / "outputs.npy"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [SAVED, "whole"])
@pytest.mark.parametrize("made", ["fit"], indirect=True)
def test_weights_that_were_saved_are_loaded_with_their_reading(made, name):
    loaded = trainer().load(made / name)
    expected = load_file(made / "whole" / "weights.safetensors")
    found = loaded.model.state_dict()  # of a model in float32; the run was in float64
    assert all(torch.equal(found[key], expected[key].to(found[key].dtype)) for key in expected)
    score = loaded.evaluate(samples()[1])
    assert score.loss == pytest.approx(told(made / "whole")["test_loss"], rel=1e-5)
