"""The generators that modules draw from without being told: torch's, numpy's and Python's global ones.

A layer's forward finds them seeded by its place in the run, whatever was drawn before. So each draw is the same in
every engine, in a probe and after a recovery. Afterwards the generators are as the rest of the process left them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy import random as numpy_random
from torch import nn

_TAKE_TURNS = threading.Lock()  # each global generator exists once per process: layers that are threads take turns
# packages whose modules never use numpy's or Python's generator
_DRAW_FROM_TORCH_ONLY = ("torch.nn.", "distfa.models.", "distfa.core.modules.section")


class Seeding:
    """Seeds the global generators around the forwards of one module.

    Args:
        module: The module; if torch or distfa wrote all of it, only torch's generators are seeded, which is faster.
        device: Where it computes.

    Attributes:
        foreign: Whether neither torch nor distfa wrote some part of the module.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        foreign = any(not type(part).__module__.startswith(_DRAW_FROM_TORCH_ONLY) for part in module.modules())
        self.foreign = foreign
        self._numpy = numpy_random.MT19937() if foreign else None

    @contextmanager
    def drawing_from(self, seed: int) -> Iterator[None]:
        """To be open around a forward: what it draws depends on ``seed`` alone."""
        with _TAKE_TURNS:
            generators = self._torch_generators()
            before = [generator.get_state() for generator in generators]
            for generator in generators:
                generator.manual_seed(seed)
            try:
                if self._numpy is None:
                    yield
                else:
                    with _seed_others(seed, self._numpy):
                        yield
            finally:
                for generator, state in zip(generators, before, strict=True):
                    generator.set_state(state)

    def _torch_generators(self) -> list[torch.Generator]:
        """torch's own: ``fork_rng`` and ``manual_seed`` do the same, but take a hundred times as long."""
        found = [torch.default_generator]
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            index = torch.cuda.current_device() if self._device.index is None else self._device.index
            found.append(torch.cuda.default_generators[index])
        return found


@contextmanager
def _seed_others(seed: int, ours: numpy_random.MT19937) -> Iterator[None]:
    """Python's generator gets its state back. numpy's is exchanged for ``ours``, since copying its state takes longer
    than a small layer's forward; only the spare half of a pair of normal numbers is lost, if numpy held one.
    """
    theirs = numpy_random.get_bit_generator()  # type: ignore[attr-defined]
    python = random.getstate()
    numpy_random.set_bit_generator(ours)  # type: ignore[attr-defined]
    numpy_random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        numpy_random.set_bit_generator(theirs)  # type: ignore[attr-defined]
        random.setstate(python)
