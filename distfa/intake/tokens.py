"""Whether samples are tokens: integers that stand for symbols, because the model looks up rows of a table by them.

That there is an Embedding does not say it: one of positions reads no samples, one that does may come after other
modules, and a module may look up rows of a parameter. So two samples go through the first layer, and the indices that
come to its tables show it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import data as torch_data

from distfa.core.modules.admit import is_sequential
from distfa.core.modules.attributes import copy_module
from distfa.core.modules.split import group, layer_module
from distfa.data.arrays import is_pair
from distfa.data.drawing import drawing_from, generators_in


def vocabulary(model: nn.Module, given: Any, *, seed: int) -> int | None:
    """Size of the vocabulary if the model takes these samples as tokens; None if they are numbers.

    Args:
        model: The model.
        given: The data, in any form that ``fit`` takes; if their first sample cannot be seen without reading them, the
            first Embedding of the first layer decides.
        seed: Seed of the run, for samples that are made when they are read.
    """
    first = layer_module(group(model)[0]) if is_sequential(model) else model
    embeddings = [m for m in first.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    sample = _first_sample(given, seed)
    if sample is None:
        return embeddings[0].num_embeddings if embeddings else None
    if sample.is_floating_point() and not embeddings:
        return None  # what looks up rows of a table of its own takes integers
    return _find_table(copy_module(first, "the model"), sample)


def _find_table(layer: nn.Module, sample: Tensor) -> int | None:
    """Rows of the table that the samples look up: it is given numbers of them, or other indices for other samples."""
    kind = torch.float32 if sample.is_floating_point() else torch.int64
    zeros, ones = (_look_ups(layer, torch.full((2, *sample.shape), value, dtype=kind)) for value in (0, 1))
    for table in (t for t in zeros if t in ones):
        moves = not torch.equal(zeros[table], ones[table])
        if zeros[table].is_floating_point() or (moves and kind is torch.int64):
            return len(table)
    return None


def _look_ups(layer: nn.Module, x: Tensor) -> dict[Tensor, Tensor]:
    """The indices that each table is given as samples go through the layer, as far as they get."""
    seen = _LookUps()
    with contextlib.suppress(Exception), torch.no_grad(), seen:  # the trial of the layer says what it cannot take
        layer(x)
    return seen.indices


class _LookUps(TorchFunctionMode):
    """Notes the first indices of every table whose rows are looked up, by an Embedding or by a module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: dict[Tensor, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (functional.embedding, functional.embedding_bag):
            self.indices.setdefault(args[1], args[0].clone())
        elif func is Tensor.__getitem__ and isinstance(args[0], nn.Parameter) and isinstance(args[1], Tensor):
            self.indices.setdefault(args[0], args[1].clone())
        return func(*args, **(kwargs or {}))


def _first_sample(given: Any, seed: int) -> Tensor | None:
    """x of the first sample; None where there is none to be had without reading the data."""
    if isinstance(given, torch_data.DataLoader):
        given = given.dataset
    with contextlib.suppress(Exception):  # what is wrong with the data is said where they are read
        if isinstance(given, torch_data.Dataset):
            with drawing_from(seed, -1, 0, generators_in(given)):
                sample = given[0]
            return torch.as_tensor(np.asarray(sample[0] if isinstance(sample, tuple | list) else sample))
        if is_pair(given):
            x = given[0].to_numpy() if hasattr(given[0], "to_numpy") else given[0]
            return torch.as_tensor(x[0] if isinstance(x, Tensor) else np.asarray(x[0]))
        if isinstance(given, np.ndarray | Tensor):
            return torch.as_tensor(given[0])
    return None
