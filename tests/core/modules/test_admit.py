"""What would be trained as something else is refused by name and with the way out; what is honest is let in."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from zoo import Shared

from distfa.core.modules.admit import admit, require_dtype
from distfa.core.modules.split import group, layer_module
from distfa.errors import ModelError
from distfa.sections.split import split


def chain(*modules):
    return nn.Sequential(*modules)


def three(middle=None):
    return chain(nn.Linear(6, 6), nn.ReLU(), middle or nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def admitted(model):
    admit(model, [layer_module(part) for part in group(model)])
    return split(model, (6,))


# -- tied and used twice --------------------------------------------------------------------------


def tied():
    model = three()
    model[2].weight = model[0].weight
    return model


def tied_by_memory():
    model = three()
    model[2].weight = nn.Parameter(model[0].weight.data)
    return model


def tied_transposed():
    model = three()
    model[2].weight = nn.Parameter(model[0].weight.data.t())
    return model


def tied_into_a_block():
    first = nn.Linear(6, 6)
    return chain(first, nn.ReLU(), chain(nn.LayerNorm(6), first), nn.ReLU(), nn.Linear(6, 3))


def used_twice():
    linear = nn.Linear(6, 6)
    return chain(linear, nn.ReLU(), linear, nn.ReLU(), nn.Linear(6, 3))


def buffer_of_two():
    model = three()
    model[0].register_buffer("scale", torch.ones(6))
    model[2].register_buffer("scale", model[0].scale)
    return model


def one_norm_twice():
    norm = nn.BatchNorm1d(6)
    return chain(nn.Linear(6, 6), norm, nn.ReLU(), nn.Linear(6, 6), norm, nn.Linear(6, 3))


@pytest.mark.parametrize(
    "make", [tied, tied_by_memory, tied_transposed, tied_into_a_block, used_twice, buffer_of_two, one_norm_twice]
)
def test_numbers_of_two_layers_are_refused_with_both_names(make):
    with pytest.raises(
        ModelError, match=r"'\d.*' of layer \d is '\d.*' of layer \d: they are tied, or one .*put both into one"
    ):
        admitted(make())


class Holding(nn.Linear):
    """Has something at hand that is not registered as its own."""

    def __init__(self, held):
        super().__init__(6, 6)
        self.held = held


@pytest.mark.parametrize(
    "hide",
    [
        lambda other: [other.weight],
        lambda other: {"peer": (other,)},
        lambda other: SimpleNamespace(rows=other.weight.detach()[2:4]),
    ],
    ids=["parameter in a list", "module in a dict", "view in an object"],
)
def test_an_attribute_that_holds_another_layers_numbers_is_refused_by_name(hide):
    """The layer's process would have read a copy that nobody trains."""
    model = three(Holding(None))
    model[2].held = hide(model[2])  # its own are its own
    admitted(model)
    model[2].held = hide(model[0])
    with pytest.raises(ModelError, match=r"'2.held' of layer 2 holds '0.weight' of layer 1, .*one module, which makes"):
        admitted(model)


def test_two_layers_may_hold_a_constant_that_neither_has_as_its_own():
    mask = torch.ones(6)
    model = three(Holding([mask]))
    model[0].mask = mask
    assert len(admitted(model)) == 3


class Memory(nn.Module):
    """Two parameters in the same memory: a copy of the module has two of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.transposed = nn.Parameter(self.weight.data.t())

    def forward(self, x):
        return F.linear(torch.relu(F.linear(x, self.weight)), self.transposed)


def test_numbers_shared_within_one_module_are_its_own():
    assert admitted(three(Shared()))[2].parameters == 42


def test_two_objects_in_one_memory_are_refused_even_within_a_module():
    with pytest.raises(
        ModelError, match=r"'2.transposed' and '2.weight' are two objects in the same memory.*Use one object"
    ):
        admitted(three(Memory()))


def test_views_of_one_long_vector_that_do_not_overlap_are_let_in():
    model = three()
    flat = torch.randn(42)
    model[2].weight, model[2].bias = nn.Parameter(flat[:36].view(6, 6)), nn.Parameter(flat[36:])
    assert len(admitted(model)) == 3


def test_one_activation_object_in_many_places_stands_in_all_of_them():
    """``named_children`` names it once, and a network split by that would lose the others without a word."""
    relu, drop = nn.ReLU(), nn.Dropout(0.1)
    network = split(chain(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu, drop, nn.Linear(6, 3), relu))
    assert [layer.activation.name for layer in network.layers] == ["relu", "relu", "relu"]
    kinds = [[kind for _, kind in layer.modules] for layer in network.layers]
    assert kinds == [["Linear", "ReLU"], ["Linear", "ReLU", "Dropout"], ["Linear", "ReLU"]]
    nested = split(chain(chain(nn.Linear(6, 6), relu, relu), chain(nn.Linear(6, 6), relu), nn.Linear(6, 3)), (6,))
    assert [layer.plain for layer in nested.layers] == [False, True, True]


def from_one_vector():
    model = three()
    vector = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, model.parameters())
    return model


def columns_of_one_matrix():
    model, whole = three(), torch.randn(6, 12)
    model[0].weight, model[2].weight = nn.Parameter(whole[:, :6]), nn.Parameter(whole[:, 6:])
    return model


@pytest.mark.parametrize("make", [from_one_vector, columns_of_one_matrix])
def test_parts_of_one_memory_that_do_not_overlap_are_numbers_of_their_own(make):
    """``vector_to_parameters``, with which evolution strategies and L-BFGS set weights, was called tied."""
    assert len(admitted(make())) == 3


def columns_that_overlap():
    model, whole = three(), torch.randn(6, 12)
    model[0].weight, model[2].weight = nn.Parameter(whole[:, :6]), nn.Parameter(whole[:, 5:11])
    return model


def test_columns_that_overlap_are_tied():
    with pytest.raises(ModelError, match=r"'2.weight' of layer 2 is '0.weight' of layer 1: they are tied"):
        admitted(columns_that_overlap())


# -- parametrisations, hooks, replaced forwards ---------------------------------------------------


def _hooked(kind):
    model = three()
    register = {
        "forward": lambda m: m.register_forward_hook(lambda module, given, out: out * 2),
        "forward with kwargs": lambda m: m.register_forward_hook(lambda *_: None, with_kwargs=True),
        "forward pre": lambda m: m.register_forward_pre_hook(lambda module, given: None),
        "backward": lambda m: m.register_full_backward_hook(lambda *_: None),
        "backward pre": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
        "state_dict": lambda m: m.register_state_dict_post_hook(lambda *_: None),
        "state_dict pre": lambda m: m.register_state_dict_pre_hook(lambda *_: None),
    }
    register[kind](model[2])
    return model


HOOKS = (
    *("forward", "forward with kwargs", "forward pre", "backward", "backward pre"),
    *("state_dict", "state_dict pre"),
)


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_on_a_module_is_refused(kind):
    with pytest.raises(ModelError, match=r"module '2' \(Linear\) has a hook \(.*\), which would not run .*remove it"):
        admitted(_hooked(kind))


def test_a_hook_on_the_model_itself_is_refused():
    model = three()
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"the model \(Sequential\) has a hook"):
        admitted(model)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_parameter_is_refused(kind):
    model = three()
    getattr(model[2].bias, kind)(lambda gradient: None)
    with pytest.raises(ModelError, match=r"parameter '2.bias' has a hook, .*remove it"):
        admitted(model)


@pytest.mark.parametrize(
    "wrap",
    [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm],
    ids=["weight_norm", "spectral_norm"],
)
def test_the_old_norms_of_a_weight_are_refused(wrap):
    with pytest.raises(ModelError, match=r"module '2' \(Linear\) has a hook .*remove_weight_norm"):
        admitted(three(wrap(nn.Linear(6, 6))))


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=["weight_norm", "spectral_norm", "orthogonal"],
)
def test_the_new_norms_of_a_weight_are_refused_and_their_removal_is_the_way_out(wrap):
    model = three(wrap(nn.Linear(6, 6)))
    with pytest.raises(ModelError, match=r"module '2' is parametrised .*remove_parametrizations"):
        admitted(model)
    parametrize.remove_parametrizations(model[2], "weight")
    assert len(admitted(model)) == 3


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(model, at):
    target = model if at is None else model[at]
    target.forward = lambda x: x
    return model


def test_a_model_whose_forward_is_not_its_modules_in_order_is_refused():
    with pytest.raises(ModelError, match=r"the model \(Sequential\) has had its forward replaced on the instance"):
        split(replaced(three(), None), (6,))
    with pytest.raises(
        ModelError, match=r"module '1' \(ReLU\) has had its forward replaced on the instance; make it a"
    ):
        admitted(replaced(three(), 1))


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Abs(nn.ReLU):
    def forward(self, x):
        return x.abs()


def test_subclasses_run_their_own_forward():
    network = admitted(chain(Twice(6, 6), nn.ReLU(), nn.Linear(6, 6), Abs(), Doubled(nn.Linear(6, 3))))
    assert [layer.plain for layer in network.layers] == [False, False, False]


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused():
    with pytest.raises(ModelError, match=r"module '2' \(Extra\) has extra state .*make it a buffer"):
        admitted(three(Extra(6, 6)))


# -- lazy, meta, dtypes, modes, frozen -------------------------------------------------------------


def test_a_lazy_module_is_refused_until_it_knows_its_sizes():
    model = three(nn.LazyLinear(6))
    with pytest.raises(ModelError, match=r"module '2' is a LazyLinear, .*run one batch through the model first"):
        admitted(model)
    model(torch.zeros(2, 6))
    assert admitted(model)[2].plain


def test_a_module_without_numbers_is_refused():
    with pytest.raises(ModelError, match=r"module '2' \(Linear\) is on the meta device"):
        admitted(three(nn.Linear(6, 6, device="meta")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_another_type_than_the_runs_are_refused(dtype):
    with pytest.raises(ModelError, match=rf"parameter '0.weight' is {str(dtype)[6:]}, .* call model.float\(\)"):
        require_dtype(three().to(dtype), torch.float32)


def test_a_float32_model_may_run_in_float64_and_a_double_one_too():
    require_dtype(three(), torch.float64)
    require_dtype(three().double(), torch.float64)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, x):
        return torch.view_as_real(torch.view_as_complex(x.view(-1, 3, 2)) * self.turn).flatten(1)


def test_a_complex_parameter_is_refused():
    with pytest.raises(ModelError, match=r"module '2' \(Complex\) has a parameter of torch.complex64"):
        admitted(three(Complex()))


@pytest.mark.parametrize("moded", [nn.BatchNorm1d(6), nn.Dropout(0.1)], ids=["BatchNorm", "Dropout"])
def test_a_model_in_eval_mode_is_refused_where_that_tells(moded):
    model = chain(nn.Linear(6, 6), moded, nn.ReLU(), nn.Linear(6, 3))
    assert len(admitted(model)) == 2
    with pytest.raises(ModelError, match=r"the model is in eval mode, where module '1' .*call model.train\(\)"):
        admitted(model.eval())
    model.train()[1].eval()
    assert len(admitted(model)) == 2
    assert len(admitted(three().eval())) == 3


def test_a_model_that_is_frozen_all_through_is_refused():
    with pytest.raises(ModelError, match="every parameter of the model is frozen, so there is nothing to train"):
        admitted(three().requires_grad_(False))


def test_frozen_and_unused_parameters_are_told_from_trained_ones():
    model = three()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    network = admitted(model)
    assert [layer.trained for layer in network.layers] == [(), ("2.weight",), ("4.weight", "4.bias")]
    assert [layer.trainable for layer in network.layers] == [0, 36, 21]
    assert "42 (36 trained)" in str(network)


# -- what a forward may do -------------------------------------------------------------------------


class Clamp(nn.Module):
    """Changes its input in place."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.how = nn.Linear(6, 6), how

    def forward(self, x):
        if self.how == "in place":
            x.clamp_(-1, 1)
        elif self.how == "data":
            x.data.clamp_(-1e-3, 1e-3)
        else:
            F.relu(x, inplace=True)
        return self.linear(x)


@pytest.mark.parametrize("module", [Clamp("in place"), Clamp("data"), Clamp("functional")], ids=lambda m: m.how)
def test_a_layer_that_changes_its_input_is_refused(module):
    with pytest.raises(ModelError, match=r"layer 2 \(2 Clamp, 3 ReLU\) changes its input in place, .*inplace=False"):
        admitted(three(module))


def test_the_first_module_too_may_not_change_its_input_and_others_may_their_own():
    with pytest.raises(ModelError, match=r"layer 1 \(0 Dropout, 1 Conv1d, 2 Flatten\) changes its input in place"):
        split(chain(nn.Dropout(0.2, inplace=True), nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)), (2, 6))
    conv = nn.Conv1d(2, 3, 3)
    assert len(split(chain(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)), (2, 6))) == 2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(6, 6, batch_first=True), r"layer 2 \(2 LSTM, 3 ReLU\) (gives|cannot take)"),
        (nn.Linear(5, 6), r"module '2' takes 5 features, but module '0' before it returns 6"),
        (chain(nn.Linear(6, 5), nn.LayerNorm(6)), r"layer 2 .* cannot take samples of shape \(6,\)"),
        (nn.Embedding(9, 6), r"layer 2 \(2 Embedding, 3 ReLU\) cannot take samples"),
        (nn.Embedding(9, 6, max_norm=1.0), r"layer 2"),
    ],
    ids=["lstm", "width", "norm", "embedding", "max_norm"],
)
def test_a_module_that_cannot_be_a_layer_is_refused(module, message):
    with pytest.raises(ModelError, match=message):
        admitted(three(module))


def test_a_tuple_is_refused_by_its_name():
    with pytest.raises(
        ModelError, match=r"layer 1 \(0 LSTM\) returns a tuple, but only one tensor .*wrap it in a module"
    ):
        split(chain(nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)), (4, 6))


class Rounded(nn.Linear):
    def forward(self, x):
        return super().forward(x).long()


class Summed(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum(0)


def test_integers_and_lost_samples_are_refused():
    with pytest.raises(
        ModelError, match=r"layer 2 .*returns torch.int64, but signals between layers must be floating-point"
    ):
        admitted(three(chain(Rounded(6, 6))))
    with pytest.raises(ModelError, match=r"layer 2 .*the first axis must remain the samples"):
        admitted(three(Summed(6, 6)))


def test_an_embedding_that_shortens_its_own_rows_is_refused():
    with pytest.raises(ModelError, match=r"changes its parameter '0.weight' in its forward pass \(as max_norm"):
        split(chain(nn.Embedding(9, 6, max_norm=0.1), nn.Flatten(), nn.Linear(18, 3)), (3,), tokens=True)


class Scaled(nn.Module):
    """Uses a weight times something: feedback has no place to stand."""

    def __init__(self, learned):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.tensor(2.0)) if learned else 2.0

    def forward(self, x):
        return F.linear(x, self.lin.weight * self.gain, self.lin.bias)


class BothWays(nn.Linear):
    """Uses its weight as it is, and once more changed."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + F.linear(x, 2 * self.weight)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_weight_that_is_used_both_as_it_is_and_changed_is_told(frozen):
    module = BothWays(6, 6)
    module.weight.requires_grad_(not frozen)
    assert admitted(three(module))[2].unreached == ("2.weight",)


@pytest.mark.parametrize("learned", [False, True], ids=["constant", "learned gain"])
def test_a_weight_that_is_used_changed_is_told(learned):
    """With a learned gain autograd does keep the weight, but for the gain's own gradient: not on the way back."""
    assert admitted(three(Scaled(learned)))[2].unreached == ("2.lin.weight",)
    assert admitted(three(Shared()))[2].unreached == ()


def test_a_trial_leaves_the_users_model_and_torchs_random_state_as_they_were():
    torch.manual_seed(4)
    model = chain(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    admitted(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_a_linear_over_positions_is_no_flat_layer():
    network = split(chain(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), (5, 6))
    assert network.shapes == ((5, 6), (5, 4), (5, 3))
    assert network.positions == (5,)
