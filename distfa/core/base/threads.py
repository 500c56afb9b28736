"""How many threads torch uses: engines agree to the last bit, and times compare, only with the same number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_threads(count: int = 1) -> Iterator[None]:
    """Use so many torch threads; afterwards as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
