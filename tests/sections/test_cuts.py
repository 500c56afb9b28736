"""Which layers there are: all, some of nearly equal cost, or those named; what is refused, with the way out."""

import pytest
import torch
from forwards import GPT, Branches, ReadsScale, Tutorial, Wide
from torch import nn

from distfa.errors import ModelError
from distfa.sections.split import divide, split


class Deep(nn.Module):
    """A skip over two blocks, each with a cut inside if there were no skip."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3))
        self.last = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x)
        h = self.blocks[1](self.blocks[0](x)) + x
        return self.last(self.blocks[2](h))


class Twice(Wide):
    """One module with weights is called twice, with another between."""

    def forward(self, x):
        return self.three(self.one(self.two(self.one(x)).relu()).relu())


class SharedCounter(Wide):
    """A buffer that one operation changes is read by another."""

    def forward(self, x):
        self.count.add_(1)
        h = self.one(x).relu() / self.count
        return self.three(self.two(h).relu() * self.count)


class Written(Wide):
    """What would go on is changed in place by the next layer's first module."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.three(self.two(self.act(self.one(x))))


class Bare(Written):
    """The same, but nothing is changed in place."""

    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()


def kinds(network):
    return [[name for name, _ in layer.modules] for layer in network.layers]


def test_functions_and_modules_without_weights_join_the_layer_below():
    assert kinds(split(Tutorial(), (3, 16, 16))) == [["conv1", "pool"], ["conv2", "pool"], ["fc1"], ["fc2"]]


def test_what_comes_before_the_first_name_belongs_to_the_first_layer_and_blocks_are_not_entered():
    network, division = divide(GPT(), (6,), layers=["blocks.1", "blocks.2", "head"], tokens=True)
    assert kinds(network) == [["tokens", "blocks.0", "blocks.1"], ["blocks.2", "norm"], ["head"]]
    assert "places.weight" in division.parts(GPT())[0].state_dict()


def test_the_same_names_as_all_are_the_same_layers():
    every = divide(Tutorial(), (3, 16, 16))[1]
    assert divide(Tutorial(), (3, 16, 16), layers=["conv1", "conv2", "fc1", "fc2"])[1] == every


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (Deep, ["first", "blocks.1", "last"], r"'blocks\.1': 2 values would cross it, from 'first', 'blocks\.0', "
         r"but only one tensor .* The nearest that can: 'blocks\.0' and 'blocks\.2'"),
        (Twice, ["one", "two", "three"], r"'one\.bias' would be in two layers, since 'one' and 'one' both use it\. "
         r"The nearest that can: 'three'"),
        (SharedCounter, ["one", "two", "three"], r"'count' would be in two layers"),
        (Written, ["one", "act"], r"'act': the tensor .* from 'one', is changed in place later\. .* that can: 'two'"),
        (Bare, ["one", "act", "two"], r"layer 2 would have no parameters; begin a layer at a module that has some"),
        (Wide, ["one", "tow"], r"layers has 'tow', which is not one of one, two, three; did you mean 'two'"),
        (Wide, ["one", "three", "two"], r"named in the order of the forward, each once, .* one, three, two"),
        (Wide, ["one", "one"], r"each once"),
        (Wide, 4, r"4 layers were asked for, but the model has from 1 to 3"),
        (Twice, 3, r"from 1 to 2; 'one\..*', which is used more than once, must stay in one"),
        (Wide, "each", r"layers 'each' is neither a number, nor 'all', nor a list of names"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_are_refused_with_the_nearest_that_can(model, layers, message):
    with pytest.raises(ModelError, match=message):
        split(model(), (6,), layers=layers)


class Wrapped(nn.Module):
    """The only module that a cut could pass through branches on data."""

    def __init__(self):
        super().__init__()
        self.inner = Branches()

    def forward(self, x):
        return self.inner(x)


def test_what_keeps_a_model_in_one_layer_is_said():
    said = r"the Branches cannot be cut into layers: .*forwards\.py:\d+ .*branches on data"
    for layers in ("all", 2):
        with pytest.raises(ModelError, match=said):
            split(Wrapped(), (6,), layers=layers)
    assert len(split(Wrapped(), (6,), layers=1)) == 1


def test_all_leaves_out_the_cuts_that_cannot_be():
    assert kinds(split(Deep(), (6,))) == [["first"], ["blocks.0", "blocks.1"], ["blocks.2"], ["last"]]
    assert kinds(split(Twice(), (6,))) == [["one", "two"], ["three"]]
    assert kinds(split(SharedCounter(), (6,))) == [["one", "two"], ["three"]]


def test_a_buffer_that_nothing_changes_is_read_by_several_layers():
    parts = divide(ReadsScale(), (6,))[1].parts(ReadsScale())
    assert ["scale" in part.state_dict() for part in parts] == [True, True, False]


def test_a_model_that_gives_no_single_tensor_is_refused():
    class Pair(Wide):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ModelError, match=r"the Pair returns a tuple"):
        split(Pair(), (6,))


def test_a_sequential_is_divided_between_its_own_modules():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    assert split(model).seeded
    assert kinds(split(model, layers=2)) == [["0", "1"], ["2", "3", "4"]]
    assert kinds(split(model, layers=["0", "4"])) == [["0", "1", "2", "3"], ["4"]]
    assert split(model, layers=["0", "2", "4"]) == split(model)


def test_a_nested_sequential_is_entered_for_more_layers_than_it_has_modules():
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4))
    assert len(split(model)) == 2
    assert kinds(split(model, (6,), layers=3)) == [["0.0", "0.1"], ["0.2"], ["1"]]


def test_layers_are_balanced_by_what_they_compute():
    torch.manual_seed(0)
    model = Tutorial()
    costs = [layer.cost for layer in split(model, (3, 16, 16)).layers]
    assert costs[0] > sum(costs[1:])  # the first convolution sees the most pixels
    assert kinds(split(model, (3, 16, 16), layers=2)) == [["conv1", "pool"], ["conv2", "pool", "fc1", "fc2"]]
    assert [layer.cost for layer in split(model, (3, 16, 16), layers=2).layers] == [costs[0], sum(costs[1:])]
