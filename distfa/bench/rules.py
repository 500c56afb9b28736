"""Every feedback rule on one task and any model: accuracy, alignment with the true gradient at the end, bytes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from distfa.bench import over_seeds, torch_training, variants
from distfa.bench.options import RulesOptions, among
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.core import rules
from distfa.core.base.order import batches
from distfa.core.books.ledger import LedgerRecord
from distfa.data import Dataset
from distfa.errors import BenchError, SpecError
from distfa.intake.subject import network_for
from distfa.measuring.scratch_run import run_in_scratch
from distfa.run.observing import Progress
from distfa.settings import RunSpec, amend
from distfa.text.words import KB

INITS = ("aligned", "random")
COLUMNS = {
    "rule": "rule",
    "init": "init",
    "test_accuracy": "test accuracy, %",
    "spread": "+-",
    "bits": "bits/character",
    "alignment": "alignment",
    "dominance": "dominance",
    "min_dominance": "least",
    "angle_degrees": "W to B, degrees",
    "kb_per_sample": "kB/sample",
    "ledger_entries": "ledger entries",
    "ledger_violations": "broken",
}
_COUNTS = ("ledger_entries", "ledger_violations")
_TORCH = "torch"
_READ = (
    "alignment with the true gradient and dominance are from the last probe, 'least' is the lowest dominance of "
    "all probes; degrees are the mean over boundaries at the last ledger entry"
)


def measure(options: RulesOptions, say: Say) -> Outcome:
    """Train with every rule, and with every init that makes a difference for it; its codecs are lossless.

    Raises:
        SpecError: A rule does not exist, or settings do not fit it.
        UsageError: An init does not exist.
        BenchError: There is no test set.
        DistfaError: A run failed; a run that diverged is not an error but a row without figures, with a note.
    """
    base, seeds, inits, beside_torch = options.spec({}), options.seeds, options.inits, options.torch
    among("--inits", inits, INITS)
    dataset = base.data.load()
    if not len(dataset.test_x):
        raise BenchError(f"data set {dataset.name!r} has no test samples, so there is no test accuracy; choose another")
    rows, raw = [], []
    names = dict.fromkeys(options.rules or rules.RULES)
    specs = [amend(base, variants.parse_variant(name)) for name in names]
    left_out = [] if options.rules else [spec.rule for spec in specs if not _has_a_path(spec, dataset)]
    specs = [spec for spec in specs if spec.rule not in left_out]
    rows_to_come = sum(len(inits) if rules.RULES[spec.rule].takes_init else 1 for spec in specs) + beside_torch
    say = paced(say, seeds * rows_to_come)
    used = dict.fromkeys(rules.RULES[spec.rule] for spec in specs)
    for variant in specs:
        name, takes_init = variants.name(variant), rules.RULES[variant.rule].takes_init
        for init in inits if takes_init else ("aligned",):
            spec, about = variant.model_copy(update={"init": init}), {"rule": name, "init": init}
            runs = over_seeds.train_each(spec, about, seeds, partial(_one, dataset=dataset), say)
            raw += runs
            rows.append({"rule": name, "init": init if takes_init else "any", **over_seeds.means(runs, summed=_COUNTS)})
    if beside_torch:
        runs = over_seeds.train_each(
            base, {"rule": _TORCH, "init": "any"}, seeds, partial(_torch, dataset=dataset), say
        )
        raw += runs
        rows.insert(0, {"rule": _TORCH, "init": "any", **over_seeds.means(runs)})
    notes = [_READ, *(rule.caution for rule in used if rule.caution), *_beside(raw)]
    notes += [f"left out, since this network has no free shortcuts: {', '.join(left_out)}"] if left_out else []
    of = "accuracy between rules"
    shown = {key: heading for key, heading in COLUMNS.items() if key != "bits" or dataset.tokens is not None}
    return over_seeds.outcome("rules", base, seeds, columns=shown, notes=notes, of=of, rows=rows, raw=raw)


def _has_a_path(spec: RunSpec, dataset: Dataset) -> bool:
    """Whether errors come down to every layer by the spec's rule."""
    if not rules.RULES[spec.rule].follows_shortcuts:
        return True
    try:
        network_for(spec, dataset)
    except SpecError:
        return False
    return True


def _one(spec: RunSpec, *, dataset: Dataset) -> dict[str, Any]:
    """The figures of one run, in a run directory that is not kept."""
    angles: dict[int, float] = {}

    def watch(progress: Progress) -> None:
        record = progress.record
        if isinstance(record, LedgerRecord) and record.angle_degrees is not None:
            angles[record.boundary] = record.angle_degrees

    result, _ = run_in_scratch(spec, dataset, observer=watch)
    alignment, counted = result.alignment or {}, result.bytes["total"]
    steps = batches(spec.recipe(network_for(spec, dataset)), len(dataset.train_x))
    sent = counted["up_payload"] + counted["down_payload"]
    return {
        "test_accuracy": 100 * (result.test_accuracy or 0.0),
        "test_loss": result.test_loss,
        "bits": _bits(result.test_loss),
        "alignment": alignment.get("cosine"),
        "dominance": alignment.get("dominance"),
        "min_dominance": alignment.get("min_dominance"),
        "angle_degrees": over_seeds.mean_of_known(angles.values()),
        "kb_per_sample": sent / sum(batch.rows for batch in steps) / KB,
        "ledger_entries": result.ledger["entries"],
        "ledger_violations": result.ledger["violations"],
    }


def _torch(spec: RunSpec, *, dataset: Dataset) -> dict[str, Any]:
    found = torch_training.train(spec, dataset)
    return found | {"bits": _bits(found["test_loss"])}


def _bits(loss: float | None) -> float | None:
    """A mean cross-entropy in bits per label; for a text in bits per character."""
    return None if loss is None else loss / math.log(2)


def _beside(raw: list[over_seeds.Figures]) -> list[str]:
    """How far apart plain torch and bp end, seed by seed, if both were trained."""
    losses = {(run["rule"], run["seed"]): run["test_loss"] for run in over_seeds.succeeded(raw)}
    apart = [
        abs(loss - losses[rules.BASELINE, seed])
        for (rule, seed), loss in losses.items()
        if rule == _TORCH and (rules.BASELINE, seed) in losses
    ]
    return [f"plain torch and {rules.BASELINE} end within {max(apart):.2g} of each other in test loss"] if apart else []
