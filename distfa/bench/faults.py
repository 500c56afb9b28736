"""Faults: layers are killed, hang or lose their links, and the run must end as if nothing had happened.

The oracle is the serial engine: after every recovery the weights, losses, accuracies and books of a run must equal its.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distfa.bench.options import FaultsOptions, among
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.core.base.recipe import SCHEDULES
from distfa.errors import BenchError, DistfaError
from distfa.measuring.scratch_run import run_in_scratch
from distfa.run.result import Result
from distfa.runtime.faults import Fault, PlannedFault, plan_faults
from distfa.settings import RunSpec, amend
from distfa.text.words import pluralize

COLUMNS = {
    "fault": "fault",
    "schedule": "schedule",
    "layer": "layer",
    "faults": "faults",
    "recovered": "recovered",
    "equal": "weights and books equal",
    "noticed_seconds": "s to detect",
    "seconds": "s to resume",
    "redone_steps": "steps repeated",
    "useful": "useful share of the time, %",
}
_READ = (
    "'s to detect' is the time from the fault until the coordinator sees a failure, 's to resume' from then until all "
    "layers are rebuilt and reconnected; medians if there are several. 'useful share' is the training time of the same "
    "run without a fault, divided by that of the run with it, both measured here"
)


def measure(options: FaultsOptions, say: Say) -> Outcome:
    """Make runs with one fault of every kind, schedule, and place (first, middle, last layer); then one with many.

    Raises:
        UsageError: A kind of fault or a schedule does not exist.
        BenchError: A run ended with weights or books that differ from those of the serial engine.
        DistfaError: A run failed.
    """
    among("--kinds", options.kinds, [fault.value for fault in Fault])
    among("--schedules", options.schedules, SCHEDULES)
    base = options.spec({"micro_batches": 4, "checkpoint.seconds": 0, "ledger.every": 10, "probe.every": 50})
    kinds, soak, rows, raw = [Fault(name) for name in options.kinds], options.soak, [], []
    when: dict[str, Any] = {"every_seconds": options.every_seconds, "seed": options.seed}
    for schedule in options.schedules:
        spec = amend(base, {"schedule": schedule, "ray.max_recoveries": max(3, soak)})
        oracle = _train(spec.model_copy(update={"engine": "serial"}), ())
        layers, steps = len(oracle[0].layer_sizes) - 1, oracle[0].steps
        hit = sorted({1, (layers + 1) // 2, layers}) if options.alone else []
        told = paced(say, 1 + len(kinds) * len(hit) + (soak > 0), ahead=True)
        told(f"{schedule}: without a fault")
        plain = _train(spec, ())
        _require_equal(plain, oracle, "without a fault")
        cases: list[tuple[str, Any, list[PlannedFault]]] = [
            (kind.value, layer, [PlannedFault(fault=kind, layer=layer, step=max(1, steps // 2))])
            for kind in kinds
            for layer in hit
        ]
        if soak:
            many = plan_faults(soak, kinds=kinds, layers=layers, steps=steps, **when)
            cases.append(("any", "any", many))
        for name, layer, faults in cases:
            what = f"{schedule}: {name}, layer {layer}, {pluralize(len(faults), 'fault')}"
            told(what)
            found = _train(spec, faults)
            _require_equal(found, oracle, what)
            rows.append(
                {"fault": name, "schedule": schedule, "layer": str(layer), **_figures(found[0], plain[0], faults)}
            )
            raw.append({"case": what, "recoveries": found[0].recoveries})
    return Outcome(
        name="faults",
        settings={"soak": soak, **when, **base.model_dump(mode="json", exclude_defaults=True)},
        columns=COLUMNS,
        rows=rows,
        notes=[_READ],
        raw=raw,
    )


def _train(spec: RunSpec, faults: Sequence[PlannedFault]) -> tuple[Result, dict[str, Tensor]]:
    return run_in_scratch(spec, spec.data.load(), faults=faults)


def _require_equal(
    found: tuple[Result, dict[str, Tensor]], oracle: tuple[Result, dict[str, Tensor]], what: str
) -> None:
    (result, weights), (expected, expected_weights) = found, oracle
    if not all(torch.equal(weights[key], expected_weights[key]) for key in expected_weights):
        raise BenchError(
            f"{what}: the weights differ from the serial engine's; this is a bug in distfa: please report it"
        )
    for name in ("steps", "train_loss", "test_loss", "test_accuracy", "ledger", "alignment"):
        if getattr(result, name) != getattr(expected, name):
            raise BenchError(
                f"{what}: {name} is {getattr(result, name)}, the serial engine's is {getattr(expected, name)}; "
                "this is a bug in distfa: please report it"
            )


def _figures(result: Result, plain: Result, faults: Sequence[PlannedFault]) -> dict[str, Any]:
    done = [entry for entry in result.recoveries if "fault" in entry]
    if not done:
        raise DistfaError("no fault was detected: the run ended before it; use more epochs")
    training, undisturbed = (one.wall_seconds - one.startup_seconds for one in (result, plain))
    return {
        "faults": len(done) if faults[-1].seconds else len(faults),
        "recovered": len(done),
        "equal": "yes",
        "noticed_seconds": statistics.median(entry["noticed_seconds"] for entry in done),
        "seconds": statistics.median(entry["seconds"] for entry in done),
        "redone_steps": sum(entry["failed_at"] - entry["step"] for entry in done),
        "useful": 100 * min(1.0, undisturbed / training),
    }
