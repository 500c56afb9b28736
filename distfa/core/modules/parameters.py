"""Which of a module's parameters are weights, which only scale numbers, and which mix them in another way."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

JOINING = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
)
"""Modules that join the layer before them: they work on each neuron or channel, or scale a sample as a whole."""

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def weights_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of its Linears, Convs and attentions, each under one name; a frozen one may be a buffer."""
    known: set[int] = set()
    for prefix, part in module.named_modules():
        names: tuple[str, ...] = ()
        if isinstance(part, _WEIGHTED):
            names = ("weight",)
        elif isinstance(part, nn.MultiheadAttention):
            names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        for name in names:
            weight = part._parameters.get(name, part._buffers.get(name))
            if weight is not None and weight.numel() and id(weight) not in known:
                known.add(id(weight))
                yield f"{prefix}.{name}", weight


def scaling_parameters(module: nn.Module) -> set[str]:
    """Parameters that only scale numbers: those of a normalisation, and any with at most one axis longer than 1."""
    found = {name for name, p in module.named_parameters() if sum(size > 1 for size in p.shape) <= 1}
    for prefix, part in module.named_modules():
        if isinstance(part, JOINING):
            found |= {f"{prefix}.{name}" for name, _ in part.named_parameters(recurse=False)}
    return found
