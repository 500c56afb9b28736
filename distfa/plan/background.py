"""Keeps layers at work in the background, so that one can be measured while it shares the machine with others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

import torch

from distfa.core.base.activations import Activation
from distfa.core.base.model import plain_network
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe
from distfa.core.layer import Layer
from distfa.errors import PlanError
from distfa.measuring.machine import cores
from distfa.measuring.subprocesses import command


def layers_at_once(layers: int) -> int:
    """How many of a run's layers this machine is measured with: at most two per core."""
    return min(layers, 2 * cores())


@contextmanager
def layers_at_work(count: int, *, rows: int, width: int, dtype: torch.dtype) -> Iterator[None]:
    """This many layers at work for as long as the context lasts.

    Args:
        count: How many layers; may be 0.
        rows: Rows of a micro-batch.
        width: Width of the layer and of its input.
        dtype: The dtype of signals.

    Raises:
        PlanError: A layer did not start.
    """
    line = command(_work, rows=rows, width=width, dtype=str(dtype).removeprefix("torch."))
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            if process.stdout is None or not process.stdout.readline():
                raise PlanError(
                    f"a background layer for the calibration did not start: {' '.join(line)}; run that to see why"
                )
        yield


def _work(*, rows: int, width: int, dtype: str) -> NoReturn:
    """In a separate process: say when at work, and end when standard input ends."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    torch.set_num_threads(1)
    recipe = Recipe(
        network=plain_network((width, width, width), activation=Activation(name="relu")),
        distribution="normal",
        optimizer=OptimizerConfig(name="sgd", lr=0.0),
        dtype=torch.float64 if dtype == "float64" else torch.float32,
        mixed=dtype == "bfloat16",
    )
    layer = Layer(recipe.without_books(), 1)
    h, message = (torch.randn(rows, width).to(recipe.signal_dtype) for _ in range(2))
    print("at work", flush=True)
    while True:
        layer.forward(h, (0, 0))
        layer.accumulate(layer.hidden_delta(message, (0, 0)), (0, 0))
        layer.update(0, 0.0)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)
