"""Shortcuts S_l of residual networks, h_l = S_l h_{l-1} + F_l(h_{l-1}), and the paths that they make to the top.

A path to layer l is S_top ... S_{l+1}, transposed: sparse, (numbers of h_l, numbers of h_top); None for the identity.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def extend(path: Tensor | None, shortcut: Tensor | None) -> Tensor | None:
    """The path to the layer below, which goes on through the shortcut of a layer.

    Args:
        path: The path to that layer.
        shortcut: Its S, sparse, (numbers of h_l, numbers of h_{l-1}); None for the identity.
    """
    if path is None or shortcut is None:
        return path if shortcut is None else shortcut.t().coalesce()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        longer: Tensor = torch.sparse.mm(shortcut.t(), path)
    return longer.coalesce()


def take_down(signal: Tensor, path: Tensor) -> Tensor:
    """A signal of the top layer, (n, ...), along a path: (n, numbers of h_l)."""
    if not path._nnz():
        return signal.new_zeros(len(signal), path.shape[0])
    wide = torch.promote_types(signal.dtype, torch.float32)  # torch has no sparse products in bfloat16
    taken: Tensor = torch.sparse.mm(path.to(wide), signal.flatten(1).to(wide).t().contiguous())
    return taken.t().contiguous().to(signal.dtype)
