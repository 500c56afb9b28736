"""Every feedback rule on one task: what it reaches, how near the true gradient it ends, what it sends."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from distfa.bench.outcome import Outcome
from distfa.bench.task import read
from distfa.core import rules
from distfa.core.activations import Activation
from distfa.core.ledger import LedgerRecord
from distfa.core.network import mlp
from distfa.core.recipe import Recipe
from distfa.data import Dataset
from distfa.errors import BenchError, NonFiniteError
from distfa.experiment.run import Progress, network_for, run
from distfa.experiment.spec import RunSpec, parse
from distfa.runtime.job import links
from distfa.transport.message import Direction

COLUMNS = {
    "rule": "rule",
    "init": "init",
    "test_accuracy": "test accuracy, %",
    "spread": "+-",
    "alignment": "alignment",
    "dominance": "dominance",
    "min_dominance": "least",
    "angle_degrees": "W to B, degrees",
    "kb_per_sample": "KB/sample",
    "ledger_entries": "ledger entries",
    "ledger_violations": "broken",
}
_READ = (
    "alignment with the true gradient and dominance are the last probe's, 'least' is the least dominance of all; "
    "degrees are the mean over boundaries at the last ledger entry"
)


def takes_init(rule: str) -> bool:
    """Whether a rule's feedback depends on ``init``; bp, usf and brsf have none of their own that could."""
    network = mlp((3, 3, 3), activation=Activation(name="relu"))
    aligned, random = (rules.build(Recipe(network=network, rule=rule, init=init)) for init in ("aligned", "random"))
    pairs = [(aligned.feedback(1, sender=end), random.feedback(1, sender=end)) for end in (True, False)]
    return any(a is not None and b is not None and not torch.equal(a, b) for a, b in pairs)


def measure(
    base: RunSpec, names: Sequence[str], *, seeds: int = 1, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Train with every rule and every init that has a meaning for it.

    Args:
        base: Everything but rule, init and seed, which count up from its own; its codecs are lossless.
        names: Rules.
        seeds: Runs per row; more than one gives means and the sample deviation of the accuracy.
        say: Told as each run ends.

    Raises:
        SpecError: A rule that does not exist, or settings that do not fit it.
        BenchError: No test set.
        DistfaError: A run failed; one that diverged is a row without figures and a note instead.
    """
    dataset = read(base)
    if not len(dataset.test_x):
        raise BenchError(f"data set {dataset.name!r} has no test samples, which test accuracy needs; name another")
    configurations = [
        base.model_copy(update={"rule": rule, "init": init})
        for rule in (parse({"rule": name}).rule for name in names)
        for init in (("aligned", "random") if takes_init(rule) else ("aligned",))
    ]
    rows, raw = [], []
    cautions = [rules.RULES[name].caution for name in dict.fromkeys(spec.rule for spec in configurations)]
    notes = [_READ, *filter(None, cautions)]
    for spec in configurations:
        runs = []
        for seed in range(base.seed, base.seed + seeds):
            try:
                runs.append(_one(spec.model_copy(update={"seed": seed}), dataset))
            except NonFiniteError as exc:
                runs.append({"rule": spec.rule, "init": spec.init, "seed": seed})
                notes.append(f"{spec.rule} {spec.init}, seed {seed}, diverged: {str(exc).splitlines()[0]}")
            say(f"{spec.rule} {spec.init}, seed {seed}: {runs[-1].get('test_accuracy', float('nan')):.2f} %")
        raw += runs
        rows.append(_row(spec, runs))
    if seeds == 1:
        notes.append("one seed: small differences of accuracy between rules mean nothing")
    columns = {key: heading for key, heading in COLUMNS.items() if key != "spread" or seeds > 1}
    settings = {"seeds": seeds, **base.model_dump(mode="json", exclude_defaults=True)}
    return Outcome(name="rules", settings=settings, columns=columns, rows=rows, notes=notes, raw=raw)


def _one(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """The figures of one run, in a run directory that is not kept."""
    angles: dict[int, float] = {}

    def watch(progress: Progress) -> None:
        record = progress.record
        if isinstance(record, LedgerRecord) and record.angle_degrees is not None:
            angles[record.boundary] = record.angle_degrees

    network = network_for(spec, dataset)
    with tempfile.TemporaryDirectory() as scratch:
        kept = spec.model_copy(update={"run_dir": str(Path(scratch) / "run")})
        result, _ = run(kept, network, dataset, observer=watch)
    alignment, counted = result.alignment or {}, result.bytes["total"]
    sent = (counted["up_payload"] + counted["down_payload"]) / (result.epochs * len(dataset.train_x))
    return {
        "rule": spec.rule,
        "init": spec.init,
        "seed": spec.seed,
        "test_accuracy": 100 * (result.test_accuracy or 0.0),
        "alignment": alignment.get("cosine"),
        "dominance": alignment.get("dominance"),
        "min_dominance": alignment.get("min_dominance"),
        "angle_degrees": _mean(angles.values()),
        "kb_per_sample": (sent or _bytes_per_sample(spec.recipe(network))) / 1000,
        "ledger_entries": result.ledger["entries"],
        "ledger_violations": result.ledger["violations"],
    }


def _bytes_per_sample(recipe: Recipe) -> int:
    """Payload, up and down, over all boundaries: what an engine with a wire counts, the codec being lossless."""
    columns = sum(link.columns for link in links(recipe) if link.direction in (Direction.UP, Direction.DOWN))
    return columns * recipe.signal_dtype.itemsize


def _row(spec: RunSpec, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of a configuration; counts are sums."""
    done = [found for found in runs if "test_accuracy" in found]
    row: dict[str, Any] = {"rule": spec.rule, "init": spec.init if takes_init(spec.rule) else "any"}
    if not done:
        return row
    for key in ("test_accuracy", "alignment", "dominance", "min_dominance", "angle_degrees", "kb_per_sample"):
        row[key] = _mean(found[key] for found in done)
    for key in ("ledger_entries", "ledger_violations"):
        row[key] = sum(found[key] for found in done)
    if len(done) > 1:
        row["spread"] = statistics.stdev(found["test_accuracy"] for found in done)
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    """Of the values there are; None of none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
