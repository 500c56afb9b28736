"""Where a model that is no ``nn.Sequential`` is cut: its forward is traced, and its cuts are chosen."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, fx, nn

import distfa
from distfa.core.base.model import Shape
from distfa.core.modules.admit import require_tensor
from distfa.costs.balance import balance
from distfa.errors import ModelError
from distfa.sections.cuts import Positions
from distfa.sections.division import Division
from distfa.sections.operations import Key, has_weights, traits
from distfa.sections.plans import plans
from distfa.sections.proxies import ROWS, Untraceable
from distfa.sections.tracer import Enter, trace
from distfa.text.words import not_among, pluralize

ALL = "all"
Layers = int | str | Sequence[str]
"""How many layers, ``all`` that there can be, or the names of the modules that begin them."""

_BY_HAND = "write the network as an nn.Sequential of its blocks, as docs/how-to/own-model.md shows"
_ENTERED_OF_TORCH = (nn.Sequential, nn.TransformerEncoder)


def divide_traced(model: nn.Module, batches: Sequence[Tensor], layers: Layers, *, head: bool = False) -> Division:
    """The sections of a model.

    Args:
        model: The model.
        batches: Two small batches, of 2 and 3 samples.
        layers: Which sections there are.
        head: As for ``group``; where layers are named, the names decide.

    Raises:
        ModelError: The model cannot be traced, or not be cut there.
    """
    if isinstance(layers, int | str):
        keys, enter = _choose(model, batches, layers, head=head)
    else:
        enter = _entering({name[:at] for name in layers for at, sign in enumerate(name) if sign == "."})
        keys = _named(_trace(model, batches, enter), model, layers)
    modes = {"training": True, "evaluation": False}
    trains, evaluates = (_found(_trace(model, batches, enter, training=on), keys, mode) for mode, on in modes.items())
    return Division(plans=plans(model, trains, evaluates))


def batches_of(model: nn.Module, shape: Shape, *, tokens: bool) -> tuple[Tensor, Tensor]:
    """Two small batches for a trace."""
    if tokens:
        return torch.zeros(ROWS[0], *shape, dtype=torch.int64), torch.zeros(ROWS[1], *shape, dtype=torch.int64)
    first, drawn = next(model.parameters(), torch.empty(0)), torch.Generator().manual_seed(0)
    one, other = (torch.randn(rows, *shape, generator=drawn).to(first) for rows in ROWS)
    return one, other


def require_count(asked: int, most: int, why: str = "") -> None:
    """Refuse a number of layers that cannot be.

    Args:
        asked: The number.
        most: How many there can be.
        why: Why there cannot be more, for the message.

    Raises:
        ModelError: There are not that many.
    """
    if not 1 <= asked <= most:
        raise ModelError(f"{pluralize(asked, 'layer')} were asked for, but the model has from 1 to {most}{why}")


def _choose(model: nn.Module, batches: Sequence[Tensor], layers: int | str, *, head: bool) -> tuple[list[Key], Enter]:
    """All cuts that there are, or those that make some layers of nearly equal cost; and what they pass through."""
    if isinstance(layers, str) and layers != ALL:
        raise ModelError(f"layers {layers!r} is neither a number, nor {ALL!r}, nor a list of names of modules")
    finest = _trace(model, batches, _worth_entering, must=False)
    cuts = finest.openings(head=head)
    tied = finest.tied()
    if not cuts and tied and layers != 1:
        raise ModelError(
            f"the model cannot be cut into layers: {tied!r} is used in its first and in its last operations (weights "
            "that are tied, or a module that is called twice), but each layer trains its own. Give each use its own "
            "weights, for example an untied head"
        )
    name = min(finest.refused, key=len, default="")
    if not cuts and name and layers != 1:
        raise _refusal(model.get_submodule(name), finest.refused[name]) from finest.refused[name]
    if isinstance(layers, int):
        why = f"; {tied!r}, which is used more than once, must stay in one" if tied else ""
        why += f"; {name!r} stays whole: {_what(finest.refused[name])}" if name else ""
        require_count(layers, len(cuts) + 1, why)
        costs = [finest.cost(*between) for between in pairwise((0, *cuts, len(finest.nodes)))]
        cuts = [cuts[last - 1] for last in [*accumulate(balance(costs, layers))][:-1]]
    return [finest.key(cut) for cut in cuts], _entering(finest.entered(cuts))


def _named(forward: Positions, model: nn.Module, names: Sequence[str]) -> list[Key]:
    """The cuts before modules; the first name is that of the layer that begins with the input."""
    known = [name for name, _ in model.named_modules() if name]
    places = []
    for name in names:
        if name not in known:
            raise ModelError(
                f"layers has {name!r}, which {not_among(name, known)}"
                if len(known) < 20
                else f"the model has no module {name!r}"
            )
        if (place := forward.find_module(name)) is None:
            raise ModelError(f"layers has {name!r}, but the model's forward does not call it on a signal")
        places.append(place)
    require_order(places, names)
    for name, place in zip(names[1:], places[1:], strict=True):
        if why := forward.why_not(place):
            near = _nearest(forward, place)
            raise ModelError(
                f"no layer can begin at {name!r}: {why}. "
                + (f"The nearest that can: {near}" if near else f"{_BY_HAND}")
            )
    return [forward.key(place) for place in places[1:]]


def require_order(places: Sequence[int], names: Sequence[str]) -> None:
    """Refuse names of layers whose places in the model do not follow one another."""
    if [*places] != sorted(set(places)):
        raise ModelError(
            f"layers must be named in the order of the forward, each once, but they are {', '.join(names)}"
        )


def _found(forward: Positions, keys: Sequence[Key], mode: str) -> tuple[Positions, list[int]]:
    """A forward, and where its cuts are."""
    places = []
    for key in keys:
        place = forward.find(key)
        why = "it is not called there" if place is None else forward.why_not(place)
        if place is None or why:
            raise ModelError(f"no layer can begin at {_name_of(key)} in {mode}: {why}; name other layers, or fewer")
        places.append(place)
    return forward, places


def _nearest(forward: Positions, place: int) -> str:
    """The nearest modules before which a cut is possible, below and above."""
    calls = [at for at, node in enumerate(forward.nodes) if at > 1 and traits(node).signal and node.op == "call_module"]
    below = [at for at in calls if at < place and forward.possible(at)][-1:]
    above = [at for at in calls if at > place and forward.possible(at)][:1]
    return " and ".join(repr(traits(forward.nodes[at]).path) for at in (*below, *above))


def _name_of(key: Key) -> str:
    return repr(key[-1].partition("#")[0])


def _worth_entering(path: str, module: nn.Module) -> bool:
    """Whether a cut may pass through a module: it has modules with weights, and its forward is not torch's own."""
    own = not type(module).__module__.startswith("torch.nn.") or type(module) in _ENTERED_OF_TORCH
    return own and any(has_weights(part) for part in module.children())


def _entering(names: set[str]) -> Enter:
    return lambda path, module: path in names


def _trace(
    model: nn.Module, batches: Sequence[Tensor], enter: Enter, *, must: bool = True, training: bool = True
) -> Positions:
    """The positions of the forward.

    Raises:
        ModelError: It cannot be traced: says her line, and the way out.
    """
    try:
        found = trace(model, batches, enter, must=must, training=training)
    except ModelError:
        raise
    except Exception as exc:
        raise _refusal(model, exc) from exc
    output = found.nodes[-1].args[0]
    where = f"the {type(model).__name__}"
    if not isinstance(output, fx.Node):
        require_tensor(output, where)
    elif traits(output).shape is None:
        raise ModelError(f"{where} does not return one tensor of numbers with a row for each sample; {_BY_HAND}")
    return Positions(found)


def _refusal(module: nn.Module, exc: Exception) -> ModelError:
    """The error for a forward that cannot be traced."""
    return ModelError(
        f"the {type(module).__name__} cannot be cut into layers: {_what(exc)}. A layer boundary passes through this "
        f"forward; name layers (model.layers) whose boundaries do not, or {_BY_HAND}"
    )


def _what(exc: Exception) -> str:
    """The user's line, and what stopped the trace there."""
    said = " ".join(str(exc).split())[:300]
    return _where(exc) + (said if isinstance(exc, Untraceable) else f"{type(exc).__name__}: {said}")


def _where(exc: Exception) -> str:
    """The user's line in which an error came up."""
    if isinstance(exc, Untraceable) and exc.where:
        return exc.where
    ours = [f"{Path(module.__file__ or '').parent}{os.sep}" for module in (torch, distfa)]
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not frame.filename.startswith(tuple(ours))]
    if not frames:
        return ""
    last = frames[-1]
    return f"{last.filename}:{last.lineno} ({last.line}) "
