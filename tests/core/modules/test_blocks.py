"""The inside of a layer: two blocks with the same bits, and feedback in place of weights by a definition of its own."""

import copy

import psutil
import pytest
import torch
import torch.nn.functional as F
from runs import recipe
from torch import nn
from torch.nn import grad as conv_grad

from distfa.core.base.activations import NAMES, Activation
from distfa.core.build import build_block
from distfa.core.modules.linear_block import LinearBlock
from distfa.core.modules.module_block import ModuleBlock
from distfa.core.modules.parameters import weights_of
from distfa.models import CausalAttention, ResidualBlock, TransformerBlock
from distfa.sections.split import split

F64 = torch.float64
torch.set_num_threads(1)


def block_of(module, *, dtype=F64, positions=0):
    """A block of one module, all of it trained."""
    holder = nn.Sequential(module)
    names = tuple(name for name, _ in holder.named_parameters())
    return ModuleBlock(
        holder,
        trained=names,
        dtype=dtype,
        signals=dtype,
        weights=tuple(name for name, _ in weights_of(holder)),
        positions=positions,
    )


# -- two blocks, the same bits ------------------------------------------------------------------


@pytest.mark.parametrize("stands_in", [False, True], ids=["weights", "feedback"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", NAMES)
def test_a_linear_through_autograd_has_the_fast_paths_bits(activation, bias, stands_in):
    torch.manual_seed(0)
    phi = Activation(name=activation, slope=0.1 if activation == "leaky_relu" else 0.0)
    linear = nn.Linear(19, 23, bias=bias)
    fast = LinearBlock(
        "0.0", linear.weight.data.clone(), linear.bias.data.clone() if bias else None, phi, torch.float32
    )
    slow = block_of(nn.Sequential(linear, phi.module()), dtype=torch.float32)
    x, s = torch.randn(37, 19), torch.randn(37, 23)
    feedback = {"0.0.weight": torch.randn(23, 19)} if stands_in else {}
    tapes = [block.forward(x) for block in (fast, slow)]
    assert torch.equal(*(tape.h for tape in tapes))
    assert torch.equal(fast.infer(x), slow.infer(x))
    deltas = [block.start(s, tape) for block, tape in zip((fast, slow), tapes, strict=True)]
    down = [b.back(d, t, feedback) for b, d, t in zip((fast, slow), deltas, tapes, strict=True)]
    assert torch.equal(*down)
    for block, delta, tape in zip((fast, slow), deltas, tapes, strict=True):
        block.accumulate(delta, tape, first=True)
    assert fast.trained.keys() == slow.trained.keys()
    for name, parameter in fast.trained.items():
        assert torch.equal(parameter.grad, slow.trained[name].grad), name


def test_a_plain_layer_of_a_given_model_takes_the_fast_path_and_any_other_the_long_one():
    network = split(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ELU(), nn.Linear(3, 2)))
    assert [layer.plain for layer in network.layers] == [True, False, True]
    assert isinstance(build_block(recipe(), 1, torch.device("cpu"), None), LinearBlock)


# -- feedback in place of weights, said without Swap ---------------------------------------------


class LinearThrough(torch.autograd.Function):
    """x W^T + b forward; delta B backward."""

    @staticmethod
    def forward(ctx, x, weight, bias, feedback):
        ctx.save_for_backward(x, feedback)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, delta):
        x, feedback = ctx.saved_tensors
        flat = delta.reshape(-1, delta.shape[-1])
        return delta @ feedback, flat.t() @ x.reshape(-1, x.shape[-1]), flat.sum(0), None


class ConvThrough(torch.autograd.Function):
    """A convolution forward; its input's gradient with B in place of its kernel."""

    @staticmethod
    def forward(ctx, x, weight, bias, feedback, options):
        ctx.save_for_backward(x, weight, feedback)
        ctx.options, ctx.has_bias = options, bias is not None
        return _conv(weight)(x, weight, bias, **options)

    @staticmethod
    def backward(ctx, delta):
        x, weight, feedback = ctx.saved_tensors
        one = weight.dim() == 3
        by_input = conv_grad.conv1d_input if one else conv_grad.conv2d_input
        by_weight = conv_grad.conv1d_weight if one else conv_grad.conv2d_weight
        over = (0, *range(2, delta.dim()))
        return (
            by_input(x.shape, feedback, delta, **ctx.options),
            by_weight(x, weight.shape, delta, **ctx.options),
            delta.sum(over) if ctx.has_bias else None,
            None,
            None,
        )


def _conv(weight):
    return F.conv1d if weight.dim() == 3 else F.conv2d


class Through(nn.Module):
    """A Linear or Conv whose way back goes through another matrix; the parameters are the module's own."""

    def __init__(self, module, feedback):
        super().__init__()
        self.weight, self.bias, self.feedback = module.weight, module.bias, feedback
        self.options = None
        if not isinstance(module, nn.Linear):
            names = ("stride", "padding", "dilation", "groups")
            self.options = {name: getattr(module, name) for name in names}

    def forward(self, x):
        if self.options is None:
            return LinearThrough.apply(x, self.weight, self.bias, self.feedback)
        return ConvThrough.apply(x, self.weight, self.bias, self.feedback, self.options)


class AttentionThrough(nn.Module):
    """torch's multi-head self-attention, batch first and written out, its two maps by ``Through``'s functions."""

    def __init__(self, module, into, out):
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = module.in_proj_weight, module.in_proj_bias
        self.out_proj = Through(module.out_proj, out)
        self.heads, self.into = module.num_heads, into

    def forward(self, x, *_, **__):
        n, length, width = x.shape
        mapped = LinearThrough.apply(x, self.in_proj_weight, self.in_proj_bias, self.into)
        q, k, v = mapped.view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return (self.out_proj(mixed.transpose(1, 2).reshape(n, length, width)),)


class SelfAttention(nn.Module):
    """torch's module as a layer: one input, one output."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class WrittenOut(nn.Module):
    """What ``SelfAttention`` computes, by an ``AttentionThrough``."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x)[0]


class Encoder(nn.Module):
    """What a post-norm ``TransformerEncoderLayer`` computes, its maps by ``Through``."""

    def __init__(self, layer, feedback):
        super().__init__()
        for name in ("norm1", "norm2"):
            setattr(self, name, getattr(layer, name))
        into, out = feedback["self_attn.in_proj_weight"], feedback["self_attn.out_proj.weight"]
        self.self_attn = AttentionThrough(layer.self_attn, into, out)
        self.linear1 = Through(layer.linear1, feedback["linear1.weight"])
        self.linear2 = Through(layer.linear2, feedback["linear2.weight"])

    def forward(self, x):
        x = self.norm1(x + self.self_attn(x)[0])
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


def through(module, feedback):
    """The module with ``Through`` in place of every Linear and Conv; feedback by the weights' names."""
    if isinstance(module, nn.TransformerEncoderLayer):
        return Encoder(module, feedback)
    if isinstance(module, SelfAttention):
        into, out = feedback["attention.in_proj_weight"], feedback["attention.out_proj.weight"]
        return WrittenOut(AttentionThrough(module.attention, into, out))
    for prefix, part in list(module.named_modules()):
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            owner = module.get_submodule(prefix.rpartition(".")[0])
            setattr(owner, prefix.rpartition(".")[2], Through(part, feedback[f"{prefix}.weight"]))
    return module


def conv_layer():
    parts = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts), (5, 3, 8, 8)


def odd_conv():
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    return nn.Sequential(conv, nn.Tanh(), nn.AvgPool2d(2)), (5, 4, 9, 9)


def conv1d():
    return nn.Sequential(nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2), nn.GELU()), (5, 4, 11)


def depthwise():
    parts = [nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.SiLU(), nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)]
    return nn.Sequential(*parts), (5, 4, 6, 6)


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), (5, 4, 8)


CASES = {
    "residual": lambda: (ResidualBlock(4, 6, stride=2), (5, 4, 8, 8)),
    "residual-same": lambda: (ResidualBlock(4, 4), (5, 4, 8, 8)),
    "conv-batchnorm-pool": conv_layer,
    "groups-stride-padding": odd_conv,
    "conv1d": conv1d,
    "depthwise": depthwise,
    "attention-of-linears": lambda: (CausalAttention(8, 2), (5, 4, 8)),
    "transformer-block": lambda: (TransformerBlock(8, 2), (5, 4, 8)),
    "multihead-attention": lambda: (SelfAttention(), (5, 4, 8)),
    "encoder-layer": encoder,
    "linear-over-positions": lambda: (nn.Sequential(nn.Linear(8, 5), nn.Softplus()), (5, 4, 8)),
}


def differentiated(module, x, s):
    """(way down, gradients by name) of plain autograd, from the teaching signal s."""
    x = x.clone().requires_grad_()
    out = module(x)
    parameters = dict(module.named_parameters())
    down, *own = torch.autograd.grad(out, [x, *parameters.values()], s)
    return down, dict(zip(parameters, own, strict=True))


@pytest.mark.parametrize("inside", [False, True], ids=["exact", "feedback"])
@pytest.mark.parametrize("case", CASES)
def test_feedback_stands_in_for_every_weight_and_for_nothing_else(case, inside):
    torch.manual_seed(0)
    module, shape = CASES[case]()
    module = module.to(F64)
    x = torch.randn(shape, dtype=F64)
    s = torch.randn_like(module(x))
    block = block_of(module)
    feedback = {name: torch.randn_like(weight) for name, weight in block.weights().items()}
    stripped = {name.removeprefix("0."): value for name, value in feedback.items()}
    expected_down, through_own = differentiated(through(copy.deepcopy(module), stripped), x, s)
    exact_down, exact_own = differentiated(copy.deepcopy(module), x, s)
    assert not torch.allclose(expected_down, exact_down)

    tape = block.forward(x)
    delta = block.start(s, tape)
    torch.testing.assert_close(block.back(delta, tape, feedback, inside=inside), expected_down, rtol=1e-11, atol=1e-13)
    block.accumulate(delta, tape, first=True, stand_in=feedback if inside else None)
    own = {name.removeprefix("0."): parameter.grad for name, parameter in block.trained.items()}
    expected = through_own if inside else exact_own
    assert own.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-11, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")

    # the weights themselves, and the probes' way, whatever stood in before
    torch.testing.assert_close(block.back(delta, tape, {}), exact_down, rtol=1e-11, atol=1e-13)
    for name, gradient in zip(block.trained, block.gradients(delta, tape), strict=True):
        torch.testing.assert_close(gradient, exact_own[name.removeprefix("0.")], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["conv-batchnorm-pool", "depthwise", "groups-stride-padding"])
def test_feedback_keeps_its_place_whatever_the_weights_memory_layout(case):
    """A stand-in is answered in the strides that autograd noted: channels_last weights have other strides."""
    torch.manual_seed(0)
    module, shape = CASES[case]()
    plain = block_of(module.to(F64))
    last = block_of(copy.deepcopy(module).to(memory_format=torch.channels_last))
    feedback = {name: torch.randn(weight.shape, dtype=F64) for name, weight in plain.weights().items()}
    x = torch.randn(shape, dtype=F64)
    down = []
    for block in (plain, last):
        tape = block.forward(x)
        down.append(block.back(torch.ones_like(tape.h), tape, feedback))
    torch.testing.assert_close(down[1], down[0], rtol=1e-11, atol=1e-13)


def test_a_weight_that_moved_after_the_forward_is_read_as_it_is_now():
    """Under delays an update lies between a forward and its backward, and the fast path reads W at the backward."""
    torch.manual_seed(0)
    block = block_of(nn.Linear(4, 3).to(F64))
    x, s = torch.randn(5, 4, dtype=F64), torch.randn(5, 3, dtype=F64)
    tape = block.forward(x)
    block.trained["0.weight"].mul_(2)
    torch.testing.assert_close(block.back(s, tape, {}), s @ block.trained["0.weight"])


# -- every kind of module that torch has for the inside of a layer: bp is plain torch -------------

ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink),
    *(nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.RReLU),
)
OTHERS = {
    "threshold": lambda: nn.Threshold(0.1, -0.2),
    "tanh-gelu": lambda: nn.GELU("tanh"),
    "softmax": lambda: nn.Softmax(1),
    "log-softmax": lambda: nn.LogSoftmax(1),
    "softmin": lambda: nn.Softmin(1),
    "softmax2d": nn.Softmax2d,
    "glu": lambda: nn.GLU(1),
    "prelu-by-channel": lambda: nn.PReLU(6),
    "relu-in-place": lambda: nn.ReLU(inplace=True),
    "max-pool": lambda: nn.MaxPool2d(2),
    "average-pool": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "adaptive-average": lambda: nn.AdaptiveAvgPool2d(2),
    "adaptive-max": lambda: nn.AdaptiveMaxPool2d((2, 1)),
    "lp-pool": lambda: nn.LPPool2d(2, 2),
    "flatten": nn.Flatten,
    "unflatten": lambda: nn.Unflatten(1, (3, 2)),
    "pad": lambda: nn.ReflectionPad2d(1),
    "upsample": lambda: nn.Upsample(scale_factor=2),
    "pixel-shuffle": lambda: nn.Sequential(nn.Conv2d(6, 4, 1), nn.PixelShuffle(2)),
    "batch-norm": lambda: nn.BatchNorm2d(6),
    "batch-norm-fixed-scale": lambda: nn.BatchNorm2d(6, affine=False),
    "batch-norm-no-memory": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "instance-norm": lambda: nn.InstanceNorm2d(6, affine=True),
    "layer-norm": lambda: nn.LayerNorm([6, 4, 4]),
    "group-norm": lambda: nn.GroupNorm(3, 6),
    "rms-norm": lambda: nn.RMSNorm([4]),
    "local-response": lambda: nn.LocalResponseNorm(2),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 2, stride=2),
    "dropout": lambda: nn.Dropout(0.4),
    "dropout2d": lambda: nn.Dropout2d(0.4),
    "alpha-dropout": lambda: nn.AlphaDropout(0.4),
}


def test_every_elementwise_activation_of_torch_is_among_them():
    names = {name for name in nn.modules.activation.__all__ if name != "MultiheadAttention"}
    mine = {kind.__name__ for kind in ACTIVATIONS} | {"Threshold", "GLU", "Softmax", "Softmax2d", "Softmin"}
    assert names - mine - {"LogSoftmax"} == set()


@pytest.mark.parametrize("kind", [*(kind.__name__ for kind in ACTIVATIONS), *OTHERS])
def test_backpropagation_through_any_module_is_plain_torch(kind):
    torch.manual_seed(0)
    made = OTHERS.get(kind) or getattr(nn, kind)
    module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), made()).to(F64)
    network = split(nn.Sequential(nn.Conv2d(3, 3, 1), module).to(F64), (3, 4, 4))
    spec = network[2]
    own = copy.deepcopy(module)
    block = block_of(module)
    x = torch.randn(5, 3, 4, 4, dtype=F64)
    s = torch.randn(5, *spec.output_shape, dtype=F64)
    tape = block.forward(x, seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        down, gradients = differentiated(own, x, s)
        torch.manual_seed(11)
        assert torch.equal(copy.deepcopy(module)(x), tape.h)
    delta = block.start(s, tape)
    torch.testing.assert_close(block.back(delta, tape, {}), down, rtol=1e-12, atol=1e-14)
    block.accumulate(delta, tape, first=True)
    for name, parameter in block.trained.items():
        expected = gradients[name.removeprefix("0.")]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")
    own.eval()
    for name, buffer in own.named_buffers():
        assert torch.equal(block.state()[f"0.{name}"], buffer), name
    with torch.no_grad():
        torch.testing.assert_close(block.infer(x), own(x), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"scale_grad_by_freq": True}, {"sparse": True}], ids=str)
def test_an_embedding_opens_a_network_and_learns_as_in_torch(options):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 4, **options), nn.LayerNorm(4)).to(F64)
    network = split(nn.Sequential(module, nn.Linear(4, 7).to(F64)), (3,), tokens=True)
    assert network[1].output_shape == (3, 4)
    block = block_of(module)
    tokens, s = torch.randint(0, 7, (5, 3)), torch.randn(5, 3, 4, dtype=F64)
    tape = block.forward(tokens)
    block.accumulate(block.start(s, tape), tape, first=True)
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(module(tokens), list(parameters.values()), s)
    for name, gradient in zip(parameters, found, strict=True):
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        torch.testing.assert_close(block.trained[f"0.{name}"].grad, dense, rtol=1e-13, atol=1e-14)


def test_a_stream_of_random_numbers_is_the_micro_batchs_own_and_torchs_stays_where_it_was():
    torch.manual_seed(0)
    block = block_of(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)).to(F64))
    x, before = torch.randn(5, 6, dtype=F64), torch.random.get_rng_state()
    first, other, again = (block.forward(x, seed=seed).h for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_forward_aside_leaves_running_statistics_as_they_were():
    block = block_of(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    before = {name: value.clone() for name, value in block.state().items()}
    block.forward(torch.randn(5, 6, dtype=F64), aside=True)
    assert all(torch.equal(value, before[name]) for name, value in block.state().items())
    block.forward(torch.randn(5, 6, dtype=F64))
    assert not torch.equal(block.state()["0.1.running_mean"], before["0.1.running_mean"])


def test_a_micro_batch_leaves_no_graph_behind():
    """A hook that kept an output as it was held the graph that held it: 20 MB a micro-batch, until memory was full."""
    layer = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Sigmoid())
    block = ModuleBlock(
        nn.Sequential(layer),
        trained=tuple(name for name, _ in nn.Sequential(layer).named_parameters()),
        dtype=torch.float32,
        signals=torch.float32,
        weights=("0.0.weight",),
    )
    x, stand_in, used = torch.randn(64, 3, 32, 32), {"0.0.weight": torch.randn(16, 3, 3, 3)}, []
    for _ in range(30):
        tape = block.forward(x)
        delta = torch.ones_like(tape.out)
        block.back(delta, tape, stand_in)
        block.accumulate(delta, tape, first=True)
        used.append(psutil.Process().memory_info().rss)
    assert used[-1] - used[5] < 100e6  # 24 graphs of 16 MB of outputs would be 400 MB
