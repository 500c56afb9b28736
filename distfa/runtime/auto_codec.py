"""codec: auto, decided when a run on Ray starts: links and processors are measured once, then nothing changes.

The choice is written down. The same run with that codec given by name has the same bits, in any engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from distfa.codecs import LOSSLESS, resolve
from distfa.codecs.choice import AUTO, choose_codec
from distfa.codecs.timing import Timing
from distfa.runtime.job import Job

_LOOPBACK_SECONDS_PER_BYTE = 2e-9  # seconds of processor time that a gRPC message costs at both ends, whatever the link
_SMALL_BYTES, _LARGE_BYTES = 2**20, 2**24
_QUICK_SECONDS = 0.25  # seconds; a transfer that is faster than this says little about the rate
_ZEROS = {"activations": 0.5, "errors": 0.0}


class MeasuredWorker(Protocol):
    """The part of a worker that is needed to measure it."""

    def time_codecs(self, rows: int, columns: int, zeros: float) -> dict[str, Timing]:
        """The cost of every candidate on the worker's processor."""

    def seconds_from(self, other: Any, size_bytes: int) -> float:
        """How long this many bytes take from another worker's node to this one's."""


def choose_codecs(job: Job, workers: Sequence[MeasuredWorker], nodes: Sequence[str]) -> tuple[Job, dict[str, Any]]:
    """The job with its codecs named, and the measurements they were chosen by; lossless where there is one worker.

    Args:
        job: The run.
        workers: The workers, in order.
        nodes: The node of each worker.
    """
    recipe, dtype = job.recipe, job.recipe.signal_dtype
    named = {"activations": job.activation_codec, "errors": job.error_codec}
    if len(workers) == 1:
        for way in _ZEROS:
            named[way] = LOSSLESS if named[way] == AUTO else named[way]
        return _with_codecs(job, named), {}
    per_byte = _LOOPBACK_SECONDS_PER_BYTE + max(
        (
            _link(a, b)
            for (a, b), (here, there) in zip(pairwise(workers), pairwise(nodes), strict=True)
            if here != there
        ),
        default=0.0,
    )
    rows = -(-recipe.batch_size // recipe.micro_batches)
    columns = max((recipe.network.sizes[b] for b in recipe.network.boundaries), default=1)
    about: dict[str, Any] = {"link_bytes_per_second": round(1 / per_byte)}
    machines = dict(zip(nodes, workers, strict=True))
    for way, zeros in _ZEROS.items():
        if named[way] != AUTO:
            continue
        found = [worker.time_codecs(rows, columns, zeros) for worker in machines.values()]
        slowest = {
            name: Timing(
                max(one[name].encode_seconds for one in found),
                max(one[name].decode_seconds for one in found),
                found[0][name].payload_bytes,
            )
            for name in found[0]
        }
        choice = choose_codec(slowest, per_byte, lambda name: resolve(name, dtype).lossless(dtype))
        named[way] = choice.name
        about[way] = {"codec": choice.name, "message_ms": {k: round(1e3 * v, 3) for k, v in choice.seconds.items()}}
    return _with_codecs(job, named), about


def _with_codecs(job: Job, named: Mapping[str, str]) -> Job:
    return dataclasses.replace(job, activation_codec=named["activations"], error_codec=named["errors"])


def _link(one: MeasuredWorker, other: MeasuredWorker) -> float:
    """Seconds per byte between two workers, in the slower direction."""
    rates = []
    for sender, receiver in ((one, other), (other, one)):
        size = _SMALL_BYTES
        if (seconds := receiver.seconds_from(sender, size)) < _QUICK_SECONDS:
            size = _LARGE_BYTES
            seconds = receiver.seconds_from(sender, size)
        rates.append(seconds / size)
    return max(rates)
