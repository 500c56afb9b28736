"""How fast this machine multiplies matrices: all products of a step, with one process of one thread per core."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from distfa.costs.arithmetic import Product
from distfa.measuring.machine import cores
from distfa.measuring.subprocesses import command, launch

_MEET_SECONDS = 0.001
_SECONDS = 2.0  # for all products together


def time_products(products: Iterable[Product], *, dtype: str, deadline_seconds: float) -> dict[Product, float]:
    """Time every product while each core does the same; returns mean CPU seconds per product over the processes.

    Args:
        products: The products; repeated ones are timed once.
        dtype: ``float32``, ``float64`` or ``bfloat16``.
        deadline_seconds: Longest time for everything.

    Raises:
        BenchError: A process failed, or did not end in time.
    """
    distinct, processes = sorted(set(products)), cores()
    with tempfile.TemporaryDirectory() as folder:
        common = {"products": distinct, "dtype": dtype, "seconds": _SECONDS, "folder": folder, "processes": processes}
        commands = [command(_time_together, rank=rank, **common) for rank in range(processes)]
        reports = launch("matrix rate", commands, deadline_seconds=deadline_seconds)
    return {product: sum(report["seconds"][i] for report in reports) / processes for i, product in enumerate(distinct)}


def bound(layers: Sequence[Sequence[Product]], seconds: dict[Product, float], cores: int) -> float:
    """The shortest possible step: its products spread evenly over the cores, each layer on one core.

    Args:
        layers: The products of every layer, from ``counted.step``.
        seconds: Seconds of each product on one core while the others are equally busy.
        cores: How many cores there are.
    """
    each = [sum(seconds[product] for product in layer) for layer in layers]
    return max(sum(each) / cores, max(each))


def time_each(products: Sequence[Product], *, dtype: torch.dtype, seconds: float) -> list[float]:
    """CPU seconds of every product on this thread, measured in turns: what it costs if no other program disturbs."""
    factors = [product.factors(dtype) for product in products]
    results = [torch.mm(*pair) for pair in factors]  # warms caches and the allocator
    spent, rounds, began = [0.0] * len(products), 0, time.perf_counter()
    while rounds == 0 or time.perf_counter() - began < seconds:
        for i, pair in enumerate(factors):
            before = time.thread_time()
            torch.mm(*pair, out=results[i])
            spent[i] += time.thread_time() - before
        rounds += 1
    return [total / rounds for total in spent]


def _time_together(
    *, products: list[list[Any]], dtype: str, seconds: float, folder: str, rank: int, processes: int
) -> dict[str, list[float]]:
    """In its own process: wait until every process is ready, so that none is timed while cores are idle."""
    torch.set_num_threads(1)
    (Path(folder) / str(rank)).touch()
    while len(list(Path(folder).iterdir())) < processes:
        time.sleep(_MEET_SECONDS)
    return {"seconds": time_each([Product(*each) for each in products], dtype=getattr(torch, dtype), seconds=seconds)}
