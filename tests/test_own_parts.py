"""How parts of one's own are named and found: from files, as objects, by entry points; the digests of their code."""

import functools

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn

import distfa
from distfa.core.base.losses import LOSSES
from distfa.core.rules import RULES
from distfa.errors import ClusterError, SpecError
from distfa.own import parts as own_parts
from distfa.own.digests import digest_of
from distfa.own.parts import short

ENTRY = "[distfa.rules]\nquiet = quiet_package.rules:Quiet\n"
QUIET = "import distfa\n\nclass Quiet(distfa.DirectRule):\n    source = 'a package'\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with an entry point, where packages are installed."""
    place = tmp_path / "site-packages"
    (place / "quiet_package").mkdir(parents=True)
    (place / "quiet_package/__init__.py").touch()
    (place / "quiet_package/rules.py").write_text(QUIET)
    about = place / "quiet_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY)
    monkeypatch.syspath_prepend(str(place))
    yield place
    RULES.forget()


def test_an_entry_point_is_a_name_like_any_other(package):
    spec = distfa.Trainer(nn.Sequential(nn.Linear(2, 2)), rule="quiet").spec
    assert spec.rule == "quiet"
    assert RULES["quiet"].source == "a package"
    assert "quiet" in RULES.installed()
    with pytest.raises(SpecError, match="did you mean 'quiet'"):
        distfa.Trainer(nn.Sequential(nn.Linear(2, 2)), rule="quite")


def test_a_node_with_another_version_of_the_package_is_refused(package):
    part = RULES.part("quiet")
    own_parts.take_parts([part])
    with pytest.raises(ClusterError, match="the code of rule 'quiet' is another here .* same version on every node"):
        own_parts.take_parts([part._replace(digest="0123456789ab")])


def test_an_object_that_cannot_be_imported_is_named_with_its_digest():
    class Local(distfa.DirectRule):
        pass

    smooth = [nn.CrossEntropyLoss(label_smoothing=a) for a in (0.1, 0.2, 0.1)]
    names = [LOSSES.adopt(loss) for loss in smooth]
    assert names[0] == names[2] != names[1]
    assert short(names[0]) == "CrossEntropyLoss"
    name = RULES.adopt(Local)
    assert "<locals>.Local#" in name
    assert short(name) == "Local"
    RULES.forget()
    with pytest.raises(SpecError, match="was an object in Python, which is not saved; give it to Trainer again"):
        RULES[name]


def test_a_local_class_trains_and_its_run_predicts_without_it(tmp_path):
    class Local(distfa.DirectRule):
        pass

    x, y = blobs(6, 4, 40)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    run = str(tmp_path / "run")
    trainer = distfa.Trainer(model, rule=Local, engine="serial", epochs=1, run_dir=run)
    assert trainer.fit((x, y)).rule.startswith("test_own_parts:")
    RULES.forget()
    found = distfa.predict(run, x, model=model).outputs
    torch.testing.assert_close(found, trainer.predict(x), rtol=1e-5, atol=1e-6)


def times(factor):
    def loss(output, target):
        return factor * (output - target).square().mean()

    return loss


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(3)), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 2.0]))),
        (functools.partial(times(1), target=0), functools.partial(times(1), target=1)),
        (times(1), times(2)),
        (lambda a, b: a, lambda a, b: b),
        (np.add, np.subtract),
    ],
)
def test_a_digest_is_of_the_settings_too(one, other):
    assert digest_of(one) == digest_of(one) != digest_of(other)
