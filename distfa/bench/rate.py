"""How fast this machine multiplies matrices: every shape of a step, one thread per process, one process per core.

python -m distfa.bench.rate --products JSON --dtype float32 --seconds S --meeting FOLDER --rank R --processes N
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from distfa.bench.machine import cores
from distfa.bench.peers import launch
from distfa.bench.products import Product

_MEET_SECONDS = 0.001


def run(products: Iterable[Product], *, dtype: str, seconds: float, deadline_seconds: float) -> dict[Product, float]:
    """Time every product while each core does the same; CPU seconds per product, the mean over the processes.

    Args:
        products: Repeated ones are timed once.
        dtype: ``float32``, ``float64`` or ``bfloat16``.
        seconds: To spend on all of them together.
        deadline_seconds: For everything.

    Raises:
        BenchError: A process failed, or did not end in time.
    """
    distinct = sorted(set(products))
    processes = cores()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "distfa.bench.rate", "--products", json.dumps(distinct), "--dtype", dtype]
        command += ["--seconds", str(seconds), "--meeting", folder, "--processes", str(processes)]
        commands = [[*command, "--rank", str(rank)] for rank in range(processes)]
        reports = launch("matrix rate", commands, environment=os.environ, deadline_seconds=deadline_seconds)
    return {product: sum(report["seconds"][i] for report in reports) / processes for i, product in enumerate(distinct)}


def timed(products: list[Product], *, dtype: torch.dtype, seconds: float) -> list[float]:
    """CPU seconds of every product on this thread, taken in turns: what it costs where no other program disturbs."""
    operands = [_operands(product, dtype) for product in products]
    results = [torch.mm(*pair) for pair in operands]  # warm caches and allocator
    spent, rounds, began = [0.0] * len(products), 0, time.perf_counter()
    while rounds == 0 or time.perf_counter() - began < seconds:
        for i, pair in enumerate(operands):
            before = time.thread_time()
            torch.mm(*pair, out=results[i])
            spent[i] += time.thread_time() - before
        rounds += 1
    return [total / rounds for total in spent]


def _operands(product: Product, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(product.rows, product.inputs, generator=generator, dtype=dtype)
    delta = torch.randn(product.rows, product.outputs, generator=generator, dtype=dtype)
    matrix = torch.randn(product.outputs, product.inputs, generator=generator, dtype=dtype)
    return {"forward": (h, matrix.t()), "gradient": (delta.t(), h), "down": (delta, matrix)}[product.kind]


def _meet(folder: Path, rank: int, processes: int) -> None:
    """Wait until every process is ready, so that none is timed while cores are idle."""
    (folder / str(rank)).touch()
    while len(list(folder.iterdir())) < processes:
        time.sleep(_MEET_SECONDS)


def main() -> None:
    """Be one of the processes, as the arguments say; one JSON object on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--products", required=True)
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--meeting", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    products = [Product(*product) for product in json.loads(given.products)]
    _meet(given.meeting, given.rank, given.processes)
    print(json.dumps({"seconds": timed(products, dtype=getattr(torch, given.dtype), seconds=given.seconds)}))


if __name__ == "__main__":
    main()
