"""Tries a layer's modules on a few samples, in training and in evaluation, to see what kind of function they are.

A layer can be trained if its forward depends only on its input, on state that can be copied (parameters, buffers,
attributes) and on generators that can be seeded. So the same forward is made twice from equal state, and what differs
is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distfa.core.base.model import Shape
from distfa.core.base.seeding import Seeding
from distfa.core.modules.admit import require_tensor
from distfa.core.modules.attributes import Attributes, restore_afterwards, tensors_beside_parameters
from distfa.core.modules.constancy import require_constant, structure_of
from distfa.core.modules.frozen import Frozen, bits_of, is_same
from distfa.core.modules.parameters import weights_of
from distfa.core.modules.swap import TracedSwap
from distfa.errors import ModelError

_ROWS, _EVALUATED = 2, 3  # samples in training and evaluation: batch normalisation needs more than one
_ROUND_OFF = 1e-4  # between two equal forwards, as a part of the largest output; memory may be aligned differently


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The result of the trial.

    Attributes:
        output_shape: Of one sample.
        used: Names of the parameters that the output depends on.
        met: Names of those that the backward pass to the input reads directly.
        remade: Names of those from which the module first derives something else, which the backward pass reads.
        changed: Names of the attributes that a forward pass changes.
        moving: Names of the frozen parameters that a forward pass changes (a teacher that follows its student).
    """

    output_shape: Shape
    used: frozenset[str]
    met: frozenset[str]
    remade: frozenset[str]
    changed: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()


def try_module(module: nn.Module, where: str, shape: Shape, *, tokens: bool) -> Trial:
    """Try a layer.

    Args:
        module: A copy of its modules; it is left unchanged, but every parameter now requires a gradient.
        where: What to call the layer in messages.
        shape: Of one sample.
        tokens: Whether samples are integer tokens.

    Raises:
        ModelError: It cannot be trained as it was given; the message says why and what to do.
    """
    drawn = torch.Generator().manual_seed(0)
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    for parameter in module.parameters():
        if parameter.requires_grad:  # a copy of it in the module (a teacher that is still equal) must be told from it
            parameter.data.mul_(1 + 1e-3 * torch.rand(parameter.shape, generator=drawn).to(parameter))
    for tensor in (*module.parameters(), *dict(weights_of(module)).values()):
        tensor.requires_grad_()
    trials = _Trials(module, where, shape, tokens=tokens, frozen=frozen)
    trained = trials.make(_ROWS)
    with restore_afterwards(module):
        module.eval()
        evaluated = trials.make(_EVALUATED)
    if trained.output_shape != evaluated.output_shape:
        raise ModelError(
            f"{where} returns samples of shape {trained.output_shape} in training but {evaluated.output_shape} in "
            "evaluation; a layer's output must have one shape"
        )
    return Trial(
        output_shape=trained.output_shape,
        used=trained.used | evaluated.used,
        met=trained.met | evaluated.met,
        remade=trained.remade | evaluated.remade,
        changed=frozenset(trials.changed),
        moving=frozenset(trials.moved & frozen),
    )


class _Trials:
    """Pairs of equal forwards of a layer."""

    def __init__(self, module: nn.Module, where: str, shape: Shape, *, tokens: bool, frozen: Set[str]) -> None:
        self._module, self._where, self._shape, self._tokens = module, where, shape, tokens
        self._parameters = dict(module.named_parameters()) | dict(weights_of(module))  # a frozen weight may be a buffer
        self._attributes, self._seeding = Attributes(module), Seeding(module)
        self._names = module.state_dict().keys()
        self.changed: set[str] = set()
        self.moved: set[str] = set()
        self._given = {name: p.detach().clone() for name, p in module.named_parameters()}
        self._trained = self._given.keys() - frozen

    def make(self, rows: int) -> Trial:
        """Two equal forwards of some samples, and a backward of the first."""
        x = self._samples(rows)
        swap = TracedSwap(self._parameters)
        structure, versions = structure_of(self._module), self._versions()
        with restore_afterwards(self._module):
            given = x.clone()
            with swap.recording(tensors_beside_parameters(self._module)):
                output = self._forward(given)
            self._require_whole(x, given, output, versions)
            require_constant(structure, self._module)
            self.changed |= (after := self._attributes.changed()).keys()
            trial, gradients = self._take_back(x, output, swap)
            if not self._holds(after):
                raise ModelError(
                    f"{self._where} changes its state in the backward pass (a counter or a running average in a "
                    "checkpointed part or in its own backward), but a run makes backward passes that torch's "
                    "loop does not make; change it in the forward pass"
                )
            self._require_apart(x, output)
        with restore_afterwards(self._module):
            again = self._forward(x.clone())
            equal = _agree(output, again) and self._holds(after)
            _, others = self._take_back(x, again, None)
        if not (equal and all(map(_agree, gradients, others))):
            raise ModelError(
                f"{self._where} returns a different output, or stores different values, for the same input from "
                "the same state: it reads something that a run can neither seed nor save "
                "(numpy.random.default_rng() in a forward pass, the time, a global variable). Draw from torch's, "
                "numpy's or Python's global generator, or from a generator stored as an attribute of the module, "
                "and store counters as attributes or buffers"
            )
        return trial

    def _holds(self, after: Mapping[str, Frozen]) -> bool:
        """Whether the attributes are as a forward has left them."""
        now = self._attributes.changed()
        return after.keys() == now.keys() and all(is_same(value, now[name]) for name, value in after.items())

    def _versions(self) -> dict[str, int]:
        return {name: p._version for name, p in self._module.named_parameters()}

    def _require_apart(self, x: Tensor, output: Tensor) -> None:
        """Refuse a layer whose next output depends on this input through the graph, as torch does in its backward."""
        if self._tokens or not (
            output.requires_grad and any(t.grad_fn is not None for t in tensors_beside_parameters(self._module))
        ):
            return
        following = self._forward(self._samples(len(x)))
        ones = torch.ones_like(following)
        if following.requires_grad and torch.autograd.grad(following, [x], ones, allow_unused=True)[0] is not None:
            raise ModelError(
                f"{self._where} keeps a tensor with its graph and reads it in its next forward pass: the backward "
                "pass of one batch would go through another batch, which torch refuses, too; store it with "
                "detach()"
            )

    def _samples(self, rows: int) -> Tensor:
        if self._tokens:
            return torch.zeros(rows, *self._shape, dtype=torch.int64)
        dtype = next(iter(self._parameters.values())).dtype
        drawn = torch.randn(rows, *self._shape, generator=torch.Generator().manual_seed(0))
        return drawn.to(dtype).requires_grad_()

    def _forward(self, x: Tensor) -> Tensor:
        try:
            with torch.enable_grad(), self._seeding.drawing_from(0):
                output = self._module(x)
        except ModelError:
            raise
        except Exception as exc:
            taken = "tokens" if self._tokens else "samples"
            raise ModelError(
                f"{self._where} cannot take {taken} of shape {self._shape or '()'}: {type(exc).__name__}: "
                f"{' '.join(str(exc).split())}"
            ) from exc
        return require_tensor(output, self._where)

    def _require_whole(self, x: Tensor, given: Tensor, output: Tensor, versions: Mapping[str, int]) -> None:
        """Refuse a forward that changes what it must not change."""
        if given._version or not torch.equal(given, x):
            raise ModelError(
                f"{self._where} changes its input in place, which is also read elsewhere; use inplace=False"
            )
        now = self._versions()
        rewritten = {
            n for n, p in self._module.named_parameters() if n in self._given and not _are_equal(p, self._given[n])
        }
        self.moved |= rewritten
        visibly = {name for name, version in versions.items() if now.get(name, version) != version}
        if changed := min(visibly | (rewritten & self._trained), default=None):
            raise ModelError(
                f"{self._where} changes its parameter {changed!r} in its forward pass (as max_norm of an "
                "Embedding does), but only the optimizer may change parameters; leave that out"
            )
        names = dict(self._module.named_parameters()).keys() | self._module.state_dict().keys()
        if made := sorted(names - self._parameters.keys() - self._names):
            raise ModelError(
                f"{self._where} creates {made[0]!r} in its first forward pass, but what is trained must be known "
                "beforehand; run one batch through the model first"
            )
        if output.dim() < 1 or len(output) != len(x):
            raise ModelError(
                f"{self._where} turns {len(x)} samples into a tensor of shape {tuple(output.shape)}; the first "
                "axis must remain the samples"
            )

    def _take_back(self, x: Tensor, output: Tensor, swap: TracedSwap | None) -> tuple[Trial, list[Tensor]]:
        """The backward pass: first to the input alone, since that does not read what only a gradient reads."""
        ones, wanted = torch.ones_like(output), list(self._parameters.values())
        try:
            if output.requires_grad and swap is not None and not self._tokens:
                with self._seeding.drawing_from(0):
                    torch.autograd.grad(output, [x], ones, retain_graph=True, allow_unused=True)
            met, remade = (frozenset(swap.used), frozenset(swap.remade)) if swap else (frozenset(), frozenset())
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if output.requires_grad:
                with self._seeding.drawing_from(0):
                    found = torch.autograd.grad(output, wanted, ones, retain_graph=True, allow_unused=True)
        except ModelError as exc:
            raise ModelError(f"{self._where}: {exc}") from exc
        except Exception as exc:
            raise ModelError(
                f"{self._where} cannot propagate its error back: {type(exc).__name__}: "
                f"{' '.join(str(exc).split())[:300]}"
            ) from exc
        used = frozenset(name for name, g in zip(self._parameters, found, strict=True) if g is not None)
        trial = Trial(output_shape=tuple(output.shape[1:]), used=used, met=met, remade=remade)
        return trial, [g.to_dense() for g in found if g is not None]


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(bits_of(a.detach()), bits_of(b))


def _agree(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = a.detach().nan_to_num().abs().max().item() if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=_ROUND_OFF * scale, equal_nan=True)
