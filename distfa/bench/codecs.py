"""Every pair of codecs on one task: its cost in accuracy and time, and the bytes it saves, for every rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from distfa.bench import over_seeds, variants
from distfa.bench.options import CodecsOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.bench.variants import Pair
from distfa.codecs import resolve, timing
from distfa.codecs.floats import FP32
from distfa.core.base.threads import use_threads
from distfa.data import Dataset
from distfa.errors import BenchError
from distfa.measuring.task import Task, meter
from distfa.run.result import Tally
from distfa.settings import RunSpec, amend

COLUMNS = {
    "rule": "rule",
    "codecs": "codecs, up/down",
    "test_accuracy": "test accuracy, %",
    "spread": "+-",
    "change": "points from fp32",
    "bytes_per_sample": "bytes/sample",
    "fewer": "reduction vs bp fp32, x",
    "codec_ms": "codec ms",
    "saved_ms": "saved ms at 1 Gbit/s",
}
_EXACT: Pair = ("fp32", "fp32")
_BITS_PER_SECOND = 1e9
_READ = (
    "bytes are payload, up and down over all boundaries, counted in training; 'reduction' compares them with bp at "
    "fp32/fp32; 'points from fp32' compares test accuracy with the same rule and seeds at fp32/fp32"
)


def measure(options: CodecsOptions, say: Say) -> Outcome:
    """Train with every rule and every pair of codecs, on the serial engine; ledger and probes are not kept.

    Raises:
        SpecError: A rule or codec does not exist, or settings do not fit it.
        BenchError: Nothing is sent, or there is no test set.
        DistfaError: A run failed; a run that diverged is not an error but a row without accuracy, with a note.
    """
    base, seeds = options.spec({}), options.seeds
    pairs = dict.fromkeys((_EXACT, *map(variants.pair, options.codecs)))
    specs = [_spec(base, rule, pair) for rule in dict.fromkeys(options.rules) for pair in pairs]
    dataset = base.data.load()
    task = Task.of(base, dataset)
    hidden = task.recipe.network.sizes[1:-1]
    if not hidden or not len(task.inputs.test):
        raise BenchError(
            f"there is nothing to send or nothing to test: {len(hidden)} hidden layers and "
            f"{len(task.inputs.test)} test samples; use at least one hidden layer and a data set with a test set"
        )
    about = [{"rule": spec.rule, "codecs": "/".join(_pair(spec))} for spec in specs]
    say = paced(say, seeds * len(specs))
    trained = [
        over_seeds.train_each(spec, each, seeds, partial(_one, dataset=dataset), say)
        for spec, each in zip(specs, about, strict=True)
    ]
    raw = [run for runs in trained for run in runs]
    exact = {(run["rule"], run["seed"]): run.get("test_accuracy") for run in raw if run["codecs"] == "/".join(_EXACT)}
    bp_bytes = 2 * FP32.max_payload_bytes(1, sum(hidden), task.recipe.dtype)
    times = {pair: _times(pair, base.batch_size, max(hidden)) for pair in map(_pair, specs)}
    rows = [
        {**each, **_figures(runs, exact, bp_bytes), **times[_pair(spec)]}
        for spec, each, runs in zip(specs, about, trained, strict=True)
    ]
    notes = [
        _READ,
        f"times are for two messages of {base.batch_size} x {max(hidden)}, with half of the activations zero and "
        "no zero errors: 'codec' is the time to encode and decode both on one thread, 'saved' the wire time of "
        "the bytes saved",
    ]
    return over_seeds.outcome("codecs", base, seeds, columns=COLUMNS, notes=notes, rows=rows, raw=raw)


def _spec(base: RunSpec, rule: str, pair: Pair) -> RunSpec:
    """The run for one row; it is evaluated only at its end."""
    up, down = pair
    changes = {"rule": rule, "codec.activations": up, "codec.errors": down}
    return amend(base, {**changes, "eval_every": base.epochs, "ledger.every": 0, "probe.every": 0})


def _one(spec: RunSpec, *, dataset: Dataset) -> dict[str, float]:
    """The figures of one run, on one thread as in a layer."""
    sent: list[int] = []
    task = Task.of(spec, dataset)
    tally = Tally(classification=True, positions=task.answers_per_sample)
    with use_threads():
        for record in task.trainer(*meter(spec, task.recipe.signal_dtype, sent)).run():
            tally.add(record)
    return {"test_accuracy": 100 * (tally.test_accuracy or 0.0), "bytes_per_sample": sum(sent) / tally.train_rows}


def _figures(
    runs: list[over_seeds.Figures], exact: Mapping[tuple[str, int], float | None], bp_bytes: int
) -> over_seeds.Figures:
    """Means over the seeds of a row, and their relation to other rows."""
    row = over_seeds.means(runs)
    peers = [(run["test_accuracy"], exact[run["rule"], run["seed"]]) for run in over_seeds.succeeded(runs)]
    if peers:
        row["fewer"] = bp_bytes / row["bytes_per_sample"]
    if changes := [mine - other for mine, other in peers if other is not None]:
        row["change"] = over_seeds.mean_of_known(changes)
    return row


def _times(pair: Pair, rows: int, columns: int) -> dict[str, float]:
    """Time of both codecs on a message each way, and time on the wire of the bytes they save, in ms."""
    up, down = (resolve(name, torch.float32) for name in pair)
    sent = [timing.time_codec(up, rows, columns), timing.time_codec(down, rows, columns, zeros=0.0)]
    saved_bytes = 2 * FP32.max_payload_bytes(rows, columns, torch.float32) - sum(one.payload_bytes for one in sent)
    return {
        "codec_ms": 1e3 * sum(one.encode_seconds + one.decode_seconds for one in sent),
        "saved_ms": 1e3 * 8 * saved_bytes / _BITS_PER_SECOND,
    }


def _pair(spec: RunSpec) -> Pair:
    return spec.codec.activations, spec.codec.errors
