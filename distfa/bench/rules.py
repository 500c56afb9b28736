"""Every feedback rule on one task: what it reaches, how near the true gradient it ends, what it sends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distfa.bench import over_seeds
from distfa.bench.outcome import Outcome
from distfa.bench.task import read
from distfa.core import rules
from distfa.core.ledger import LedgerRecord
from distfa.core.recipe import Recipe
from distfa.core.routes import links
from distfa.data import Dataset
from distfa.errors import BenchError
from distfa.experiment.run import Progress, run
from distfa.experiment.spec import RunSpec, parse
from distfa.experiment.subject import network_for
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
_MEANS = ("test_accuracy", "alignment", "dominance", "min_dominance", "angle_degrees", "kb_per_sample")
_READ = (
    "alignment with the true gradient and dominance are the last probe's, 'least' is the least dominance of all; "
    "degrees are the mean over boundaries at the last ledger entry"
)


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
    rows, raw = [], []
    used = dict.fromkeys(rules.RULES[parse({"rule": name}).rule] for name in names)
    for rule in used:
        for init in ("aligned", "random") if rule.takes_init else ("aligned",):
            spec, about = base.model_copy(update={"rule": rule.name, "init": init}), {"rule": rule.name, "init": init}
            runs = over_seeds.train(spec, about, seeds, partial(_one, dataset=dataset), say)
            raw += runs
            rows.append({"rule": rule.name, "init": init if rule.takes_init else "any", **_row(runs)})
    notes = [_READ, *(rule.caution for rule in used if rule.caution)]
    of = "accuracy between rules"
    return over_seeds.outcome("rules", base, seeds, columns=COLUMNS, notes=notes, of=of, rows=rows, raw=raw)


def _one(spec: RunSpec, *, dataset: Dataset) -> dict[str, Any]:
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
        "test_accuracy": 100 * (result.test_accuracy or 0.0),
        "alignment": alignment.get("cosine"),
        "dominance": alignment.get("dominance"),
        "min_dominance": alignment.get("min_dominance"),
        "angle_degrees": over_seeds.mean(angles.values()),
        "kb_per_sample": (sent or _bytes_per_sample(spec.recipe(network))) / 1000,
        "ledger_entries": result.ledger["entries"],
        "ledger_violations": result.ledger["violations"],
    }


def _bytes_per_sample(recipe: Recipe) -> int:
    """Payload, up and down, over all boundaries: what an engine with a wire counts, the codec being lossless."""
    columns = sum(link.columns for link in links(recipe) if link.direction in (Direction.UP, Direction.DOWN))
    return columns * recipe.signal_dtype.itemsize


def _row(runs: list[over_seeds.Figures]) -> over_seeds.Figures:
    """Means over the seeds of a configuration; counts are sums."""
    row, done = over_seeds.means(runs, *_MEANS), over_seeds.succeeded(runs)
    return row | {key: sum(run[key] for run in done) for key in ("ledger_entries", "ledger_violations") if done}
