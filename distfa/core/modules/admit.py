"""Refuses what cannot be trained as it was given: by name, before anything starts, with the way out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from distfa.core.modules.attributes import attributes_of, tensors_in
from distfa.errors import ModelError

Group = list[tuple[str, nn.Module]]
"""The modules of one layer, with their names in the model."""

# hooks of load_state_dict may stay: the audit loads weights too, and removing a parametrisation leaves one behind
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
)
_MODES = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.MultiheadAttention)


def is_sequential(model: nn.Module) -> bool:
    """Whether its forward is one module after the other, as ``nn.Sequential`` has it."""
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


def require_module(model: nn.Module) -> None:
    """Refuse what is no module, or is called in its own way.

    Raises:
        ModelError: Says what it is.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    if type(model).__call__ is not nn.Module.__call__:
        raise ModelError(
            f"the model is a {type(model).__name__} with its own __call__, which would be lost when it is split "
            "into layers; move its computation into forward"
        )


def admit(model: nn.Module, parts: Sequence[nn.Module] = ()) -> None:
    """Refuse what would be trained as something else.

    Args:
        model: The model.
        parts: The modules of its layers, if they are known.

    Raises:
        ModelError: Names the module, what is wrong, and what to do.
    """
    for name, module in model.named_modules():
        _admit_module(f"module {name!r}" if name else "the model", module)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ModelError(
                f"parameter {name!r} has a hook, which would not run in its layer's process; remove it before training"
            )
    _require_apart(parts)
    moded = [name for name, module in model.named_modules() if isinstance(module, _MODES)]
    if moded and not any(module.training for module in model.modules()):
        raise ModelError(
            f"the model is in eval mode, where module {moded[0]!r} behaves differently than in training; call "
            "model.train() before training (individual modules may stay in eval mode)"
        )


def require_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Refuse a model whose numbers are not of the run's type; float32 in a float64 run loses nothing and is allowed.

    Raises:
        ModelError: Names the parameter and both types.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (dtype, torch.float32):
            run = {torch.float64: " or set dtype: float64", torch.bfloat16: " and set dtype: bfloat16"}
            raise ModelError(
                f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}, but the run trains weights "
                f"in {str(dtype).removeprefix('torch.')}; call model.float(){run.get(parameter.dtype, '')}"
            )


def _admit_module(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ModelError(f"{name} is a {kind}, whose sizes are not known yet; run one batch through the model first")
    if parametrize.is_parametrized(module):
        raise ModelError(
            f"{name} is parametrised (weight_norm, spectral_norm or the like): its weight is recomputed at every "
            "use, but distfa trains the weight itself; call "
            "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
        )
    for attribute in _HOOKS:
        if getattr(module, attribute, None):
            raise ModelError(
                f"{name} ({kind}) has a hook ({attribute.strip('_').replace('_', ' ')}), which would not run in its "
                "layer's process; remove it before training (torch.nn.utils.remove_weight_norm for an old weight_norm)"
            )
    if isinstance(module, torch.jit.ScriptModule) or kind == "OptimizedModule":
        raise ModelError(f"{name} is compiled ({kind}), but layers run plain modules; pass the module it was made from")
    if "forward" in vars(module):
        raise ModelError(
            f"{name} ({kind}) has had its forward replaced on the instance; make it a class with its own forward"
        )
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        raise ModelError(
            f"{name} ({kind}) has extra state besides its tensors, which a run does not keep; make it a buffer"
        )
    for p in module.parameters(recurse=False):
        if p.is_meta:
            raise ModelError(f"{name} ({kind}) is on the meta device, without values; create it on the CPU")
        if not p.is_floating_point() or p.layout is not torch.strided:
            raise ModelError(
                f"{name} ({kind}) has a parameter of {p.dtype}, {p.layout}; distfa trains dense floating-point "
                "numbers: store complex or integer ones as pairs of those, or as buffers"
            )


@dataclass(frozen=True)
class _Held:
    """A parameter or buffer of a layer, or a tensor in an attribute, and where its numbers lie, in bytes of memory."""

    layer: int
    name: str
    tensor: torch.Tensor
    attribute: bool = False

    @property
    def start(self) -> int:
        return self.tensor.data_ptr()

    @property
    def end(self) -> int:
        last = sum((n - 1) * step for n, step in zip(self.tensor.shape, self.tensor.stride(), strict=True))
        return self.start + (last + 1) * self.tensor.element_size()


def _require_apart(parts: Sequence[nn.Module]) -> None:
    """Refuse a parameter or buffer that two layers share: by itself, in a module used twice, by its memory, or because
    an attribute of another layer holds it.

    Two tensors of one layer may not lie in the same memory either: a copy of the layer would have two separate ones.
    Parts of one long vector that do not overlap are numbers of their own.
    """
    held = [
        one
        for layer, part in enumerate(parts, start=1)
        for one in _held_by(layer, part)
        if one.tensor.numel() and not one.tensor.is_meta and one.tensor.layout is torch.strided
    ]
    met, reaching = list[tuple[int, int]](), list[int]()
    for one in sorted(range(len(held)), key=lambda each: held[each].start):
        reaching = [other for other in reaching if held[other].end > held[one].start]
        met += [(max(one, other), min(one, other)) for other in reaching if _share_numbers(held[one], held[other])]
        reaching.append(one)
    for second, first in sorted(met):
        _require_one_owner(held[first], held[second])


def _held_by(layer: int, part: nn.Module) -> Iterator[_Held]:
    """A layer's parameters and buffers, under every name, and the tensors that its attributes hold besides."""
    for name, tensor in (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)):
        yield _Held(layer, name, tensor)
    known = frozenset(map(id, [*part.parameters(), *part.buffers(), *part.modules()]))
    for name, value in attributes_of(part).items():
        for tensor in tensors_in([value], known):
            yield _Held(layer, name, tensor, attribute=True)


def _require_one_owner(first: _Held, second: _Held) -> None:
    """Refuse two names of the same memory, unless a copy of the one layer that has both keeps them together.

    What has one name in two layers is read by sections of a traced model, none of which changes it.
    """
    if first.attribute or second.attribute:
        holder, owner = sorted((first, second), key=lambda one: not one.attribute)
        if not owner.attribute and holder.layer != owner.layer:
            raise ModelError(
                f"attribute {holder.name!r} of layer {holder.layer} holds {owner.name!r} of layer {owner.layer}, but "
                "each layer is trained in a process of its own, where the other's numbers would stay as they were at "
                "the start; put both into one module, which makes one layer"
            )
        return
    if first.name == second.name and not first.tensor.requires_grad:
        return
    if first.layer != second.layer:
        raise ModelError(
            f"{second.name!r} of layer {second.layer} is {first.name!r} of layer {first.layer}: they are tied, or "
            "one module is used twice. Each layer trains its own weights; give each its own, or put both into "
            "one module, which makes one layer"
        )
    trained = isinstance(first.tensor, nn.Parameter) or isinstance(second.tensor, nn.Parameter)
    if trained and first.tensor is not second.tensor:
        raise ModelError(
            f"{second.name!r} and {first.name!r} are two objects in the same memory, but a copy of the layer "
            "would have two separate sets of numbers. Use one object in both places, or give each its own memory"
        )


def _share_numbers(a: _Held, b: _Held) -> bool:
    """Whether two tensors whose memory overlaps from end to end have numbers in common; columns of one need not."""
    size, start = a.tensor.element_size(), min(a.start, b.start)
    if a.tensor is b.tensor or size != b.tensor.element_size():
        return True
    marks = torch.zeros((max(a.end, b.end) - start) // size, dtype=torch.bool)
    seen = [marks.as_strided(h.tensor.shape, h.tensor.stride(), (h.start - start) // size) for h in (a, b)]
    seen[0].fill_(True)
    return bool(seen[1].any())


def require_tensor(output: object, where: str) -> torch.Tensor:
    """A layer's output, which must be one tensor of floating-point numbers.

    Raises:
        ModelError: It is a tuple (as of an LSTM), a dictionary, or integers.
    """
    if not isinstance(output, torch.Tensor):
        kind = "packed sequence" if isinstance(output, PackedSequence) else type(output).__name__
        raise ModelError(
            f"{where} returns a {kind}, but only one tensor can go to the next layer; wrap it in a module that "
            "returns one"
        )
    if not output.is_floating_point():
        raise ModelError(f"{where} returns {output.dtype}, but signals between layers must be floating-point numbers")
    return output
