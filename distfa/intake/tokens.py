"""Whether samples are tokens: integers that stand for symbols, because an Embedding of the model reads them.

An Embedding alone does not say it: one of positions reads no samples, and one that does may come after other modules.
So two samples go through the first layer, and what its Embeddings are given shows it.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
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
    if not embeddings:
        return None
    sample = _first_sample(given, seed)
    reading = embeddings[0] if sample is None else _find_embedding(copy_module(first, "the model"), sample)
    return None if reading is None else reading.num_embeddings


def _find_embedding(layer: nn.Module, sample: Tensor) -> nn.Embedding | nn.EmbeddingBag | None:
    """The Embedding that reads the samples: it is given numbers of them, or other indices for other samples."""
    kind = torch.float32 if sample.is_floating_point() else torch.int64
    zeros, ones = (_indices(layer, torch.full((2, *sample.shape), value, dtype=kind)) for value in (0, 1))
    for embedding in (e for e in zeros if e in ones):
        moves = not torch.equal(zeros[embedding], ones[embedding])
        if zeros[embedding].is_floating_point() or (moves and kind is torch.int64):
            return embedding
    return None


def _indices(layer: nn.Module, x: Tensor) -> dict[nn.Embedding | nn.EmbeddingBag, Tensor]:
    """What each Embedding is given as samples go through the layer, as far as they get."""
    found: dict[nn.Embedding | nn.EmbeddingBag, Tensor] = {}
    kept = [
        m.register_forward_pre_hook(partial(_note, found))
        for m in layer.modules()
        if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    ]
    with contextlib.suppress(Exception), torch.no_grad():  # the trial of the layer says what it cannot take
        layer(x)
    for hook in kept:
        hook.remove()
    return found


def _note(found: dict[Any, Tensor], embedding: nn.Module, args: tuple[Tensor]) -> None:
    found.setdefault(embedding, args[0].clone())


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
