"""The stream of a residual network: the shortcuts through its layers, for a rule that sends errors down along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from distfa.core import rules
from distfa.core.base.model import Network
from distfa.core.base.shortcuts import extend
from distfa.core.modules.shortcuts import Blocked, find_shortcut
from distfa.errors import SpecError
from distfa.settings import RunSpec

_FREE = {"mlp": "residual_mlp", **dict.fromkeys(("lenet", "convnet", "resnet20"), "preact_resnet")}


def with_shortcuts(network: Network, parts: Sequence[nn.Module | None], spec: RunSpec) -> Network:
    """The network with the paths of shortcuts to its layers, if the rule of the spec follows them.

    Args:
        network: The layers.
        parts: The modules of every layer; None for a plain one that is drawn from the seed.
        spec: The run.

    Raises:
        SpecError: Errors cannot come down to every layer: names the layers that block them, and the ways out.
    """
    if not rules.RULES[spec.rule].follows_shortcuts:
        return network
    paths: dict[int, Tensor | None] = {}
    blocking: dict[str, list[str]] = {}
    for layer in range(len(network) - 1, 1, -1):
        where = f"layer {layer} ({', '.join(f'{name} {kind}' for name, kind in network[layer].modules)})"
        try:
            paths[layer - 1] = extend(paths.get(layer), find_shortcut(parts[layer - 1], network[layer], where))
        except Blocked as exc:
            blocking.setdefault(str(exc), []).insert(0, where)
    if blocking:
        layers = "; ".join(f"{', '.join(places)}: {reason}" for reason, places in blocking.items())
        raise SpecError(
            f"rule {spec.rule!r} sends the error down the shortcuts of a residual network, but not past {layers}. Use "
            "blocks x + f(x) with nothing after the sum (pre-activation blocks), or put such layers together with the "
            "first or the last one (model.layers), or use another rule"
            + (f"; model {_FREE[name]} has such blocks" if (name := spec.model.name) in _FREE else "")
        )
    return replace(network, paths=paths)
