"""Rule skip is refused before the start where a layer lets no error down, and the layer is named."""

import pytest
from streams import SHAPE, stack
from torch import nn

from distfa import models
from distfa.core.modules.split import group, layer_module
from distfa.errors import SpecError
from distfa.intake.stream import with_shortcuts
from distfa.intake.subject import subject_for
from distfa.sections.split import divide
from distfa.settings import RunSpec

SKIP = RunSpec(rule="skip")


def paths_of(model, shape, *, tokens=False, **settings):
    network, division = divide(model, shape, head=True, tokens=tokens, **settings)
    return with_shortcuts(network, division.parts(model), SKIP).paths


def test_a_path_goes_on_from_layer_to_layer():
    paths = paths_of(stack(), SHAPE)
    assert [None if paths[l] is None else tuple(paths[l].shape) for l in range(1, 7)] == [
        *[(1024, 64), (1024, 64), (256, 64), (128, 64), (128, 64)],
        None,
    ]


def test_every_layer_that_blocks_is_named_with_its_reason_and_the_ways_out():
    block = models.ResidualBlock
    blocks = [block(4, 4), block(4, 6, stride=2), block(6, 6)]
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(384, 3))
    changing = r"layer 2 \(1 ResidualBlock\), layer 4 .*: its shortcut changes with the data"
    with pytest.raises(
        SpecError, match=rf"not past {changing} .*; layer 3 \(2 ResidualBlock\): no path .*\(model.layers\)"
    ):
        paths_of(model, SHAPE)


def test_layers_that_block_may_be_put_together_with_the_first():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), models.ResidualBlock(4, 4), *stack()[1:])
    with pytest.raises(SpecError, match=r"layer 2 \(1 ResidualBlock\)"):
        paths_of(model, SHAPE)
    assert [*paths_of(model, SHAPE, layers=["0", *map(str, range(2, 9))])] == [6, 5, 4, 3, 2, 1]


def test_what_the_head_has_is_not_on_the_stream():
    model = models.residual_mlp(12, 5, width=9, depth=2)
    assert paths_of(model, (12,)) == {2: None, 1: None}
    network, _ = divide(model, (12,))
    with pytest.raises(SpecError, match=r"layer 3 \(2 ResidualMLPBlock, 3 LayerNorm\): no path"):
        with_shortcuts(network, [layer_module(part) for part in group(model)], SKIP)


def test_a_traced_model_ends_its_stream_in_the_same_way():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(12, 9), nn.LayerNorm(9), nn.Linear(9, 5)
            self.first, self.second = (nn.Linear(9, 9) for _ in range(2))

        def forward(self, x):
            x = self.stem(x)
            x = x + self.first(x).relu()
            x = x + self.second(x).relu()
            return self.head(self.norm(x).relu())

    assert paths_of(Residual(), (12,)) == {2: None, 1: None}


def test_perceptrons_are_refused():
    with pytest.raises(SpecError, match="layer 2 .*: no path .*"):
        paths_of(models.mlp(12, 5, hidden=(9, 9)), (12,))


def test_where_a_ready_network_has_no_free_path_the_one_that_has_is_named():
    for name, other in (("mlp", "residual_mlp"), ("lenet", "preact_resnet")):
        spec = RunSpec(rule="skip", model=name)
        with pytest.raises(SpecError, match=f"model {other} has such blocks"):
            subject_for(spec, spec.data.load())


@pytest.mark.parametrize("options", [{}, {"shortcut": "pad", "head": "norm", "start": "scaled"}], ids=["own", "other"])
def test_the_ready_residual_networks_have_free_paths_as_they_are(options):
    model = models.preact_resnet((3, 16, 16), 5, width=4, depth=2, **options)
    paths = paths_of(model, (3, 16, 16))
    top = 4 * 4 * (1 if not options else 16)
    assert [*paths] == [6, 5, 4, 3, 2, 1]
    assert tuple(paths[1].shape) == (4 * 256, top)
    reached = paths[1].to_dense().abs().sum(1) > 0
    assert reached.double().mean() == 1
