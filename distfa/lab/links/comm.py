"""Communication: bytes per step, bytes to a target accuracy, and time to it over shaped links.

Accuracy by steps comes from the serial engine, bit-equal to a distributed run; speed and bytes on the interfaces
from a run of some steps over the links. Time to the target is steps to the target divided by steps per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distfa.bench import variants
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say
from distfa.core.base import order
from distfa.core.rules import BASELINE
from distfa.errors import BenchError, UsageError
from distfa.lab.links import link_runs, tuned
from distfa.lab.links.accuracy_curve import Curve
from distfa.lab.links.conclusion import conclusion
from distfa.lab.links.link_runs import Passage
from distfa.lab.links.namespaces import Nodes, obstacle
from distfa.lab.links.options import CommOptions
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.run.disk.host import processor
from distfa.settings import RunSpec, amend
from distfa.text.words import KB, MB, pluralize

COLUMNS = {
    "name": "configuration",
    "codec": "codecs",
    "payload_kb": "payload kB/step",
    "message_kb": "message kB/step",
    "interface_kb": "interface kB/step",
    "same_codec": "kB / bp's, same codecs",
    "rate": "rate",
    "decay": "decay, steps",
    "steps": "steps to target",
    "spread": "least-most steps",
    "payload_mb": "MB to target",
    "best_bytes": "MB / best bp's",
    "samples_per_second": "samples/s",
    "seconds": "s to target",
    "best_seconds": "s / best bp's",
}
_EXACT = ("lossless", "lossless")
_READ = (
    "bytes per step are those of a whole batch; payload is encoded numbers, messages are whole gRPC messages, "
    "interfaces count every header up to Ethernet's; MB to target are exact payload; s to target are the samples to "
    "the target divided by samples/s, without start and evaluation"
)


def measure(options: CommOptions, say: Say) -> Outcome:
    """Measure every rule with every codec, bp and lossless included, and torch's pipelines.

    Raises:
        BenchError: It cannot be measured as asked, or a run failed.
        SpecError: A rule or codec does not exist, or settings do not fit it.
        UsageError: Rates are given without decays, or decays without rates.
    """
    base = _task(options)
    task = Task.of(base)
    specs = [variants.spare_errors(spec, task.recipe.network) for spec in specs_of(options)]
    _check(options, task)
    layers = len(task.recipe.network)
    nodes, why = _nodes(options, layers)
    best = tuned.tune(specs, options, say)
    specs, by_seed = [spec for spec, _ in best], [curves for _, curves in best]
    curves = [tuned.median(curves) for curves in by_seed]
    steps = options.warmup + options.link_steps
    passages = link_runs.passages(
        [spec.model_copy(update={"max_steps": steps, "epochs": steps}) for spec in specs],
        link_runs.pipelines(base, layers, nodes),
        layers=layers,
        nodes=nodes,
        warmup=options.warmup,
        say=say,
    )
    rows, raw = _rows(task, specs, curves, list(passages))
    if options.seeds > 1 or options.candidates:
        _tell_tuned(rows, specs, by_seed)
    for row, curves_of in zip(raw[len(raw) - len(specs) :], by_seed, strict=True):
        row["curves"] = [asdict(curve) for curve in curves_of]
    notes = [_told_task(options, base, task), _READ, *_seeds(options), *([why] if why else [])]
    notes += _notes(options, specs, curves, linked=nodes is not None)
    own = rows[len(rows) - len(specs) :]
    said = conclusion(own, [spec.rule for spec in specs], by_seed, options.share)
    return Outcome(
        name="comm", settings=_settings(options, base, task), columns=COLUMNS, rows=rows, notes=[*notes, said], raw=raw
    )


def _task(options: CommOptions) -> RunSpec:
    """Everything except rule and codecs."""
    if bool(options.rates) != bool(options.decays):
        raise UsageError("--rates and --decays must be given together: every rate is tried with every decay")
    fixed = {"epochs": options.max_steps, "eval_every": options.max_steps, "ledger.every": 0, "probe.every": 0}
    return options.spec({**fixed, "wire.security": "insecure" if options.insecure else "auto"})


def specs_of(options: CommOptions) -> list[RunSpec]:
    """One spec per rule and codec, lossless bp first."""
    base = _task(options)
    return [
        amend(base, {**variants.parse_variant(rule), "codec.activations": up, "codec.errors": down})
        for rule in dict.fromkeys((BASELINE, *options.rules))
        for up, down in dict.fromkeys((_EXACT, *map(variants.pair, options.codecs)))
    ]


def _seeds(options: CommOptions) -> list[str]:
    """Note what was tuned, and over how many seeds the figures are medians."""
    found = []
    if options.candidates:
        rates, decays = (", ".join(f"{value:g}" for value in values) for values in (options.rates, options.decays))
        tried = f"(rates {rates}; cosine over {decays} steps)"
        found.append(
            f"every rule uses, with every codec, the best of {options.candidates} settings {tried}: the fewest steps "
            f"to the target for the median seed, evaluated every {options.eval_steps} steps"
            if options.candidates > 1
            else f"every rule and codec uses the same setting {tried}, evaluated every {options.eval_steps} steps"
        )
    if options.seeds > 1:
        found.append(f"steps and MB are those of the median of {options.seeds} seeds; least-most are the steps of all")
    else:
        found.append("one seed: steps to the target may move by an evaluation or two")
    return found


def _tell_tuned(rows: list[dict[str, Any]], specs: Sequence[RunSpec], by_seed: Sequence[Sequence[Curve]]) -> None:
    """Add the settings and spread of distfa's rows, which are the last ones."""
    for row, spec, curves in zip(rows[len(rows) - len(specs) :], specs, by_seed, strict=True):
        row |= {"rate": spec.optimizer.lr, "decay": spec.max_steps, "spread": tuned.spread(curves)}


def _told_task(options: CommOptions, base: RunSpec, task: Task) -> str:
    """Note what was trained, so that two reports can be distinguished."""
    sizes = "-".join(map(str, task.recipe.network.sizes))
    rate = "" if options.candidates else f" at {base.optimizer.lr:g}"
    seeds = f"{pluralize(options.seeds, 'seed')} from {base.seed}" if options.seeds > 1 else f"seed {base.seed}"
    return (
        f"the task: {base.data.name}, {len(task.inputs.train):,} training samples; {base.model.name} {sizes}; batch "
        f"{base.batch_size} in {pluralize(base.micro_batches, 'micro-batch', 'micro-batches')}, "
        f"{base.optimizer.name}{rate}, {seeds}; on {processor()}, {pluralize(cores(), 'core')}"
    )


def _check(options: CommOptions, task: Task) -> None:
    layers, tests = len(task.recipe.network), len(task.inputs.test)
    if layers < 2 or not tests:
        raise BenchError(
            f"there is nothing to send or nothing to test: {layers} layers and {tests} test samples; use at least "
            "one hidden layer and a data set with a test set"
        )
    if options.delay_ms and not options.mbit:
        raise BenchError(
            f"a delay of {options.delay_ms:g} ms needs links; set their rate with --mbit, or leave out --delay-ms"
        )
    if options.eval_steps > order.count_steps(task.recipe, len(task.inputs.train)):
        raise BenchError(
            f"the run is shorter than the {options.eval_steps} steps between evaluations; evaluate more often, or "
            "allow more steps"
        )


def _nodes(options: CommOptions, layers: int) -> tuple[Nodes | None, str]:
    """The nodes, not yet made; or None, with a note if they are asked for and cannot be made."""
    if not options.mbit:
        return None, ""
    nodes = Nodes(layers, megabits_per_second=options.mbit)
    if (why := obstacle()) is None:
        return nodes, ""
    return None, f"no shaped links here, so no times and no bytes of interfaces: {why}"


def _rows(
    task: Task, specs: Sequence[RunSpec], curves: Sequence[Curve], passages: Sequence[Passage]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table, with torch's pipelines first, which learn as lossless bp does; and the measurements behind it."""
    peers = len(passages) - len(specs)
    described = [(specs[0], curves[0])] * peers + list(zip(specs, curves, strict=True))
    bp_payload = {_key(spec): _per_step(task, passage) for spec, passage in zip(specs, passages[peers:], strict=True)}
    rows, raw = [], []
    for (spec, found), passage in zip(described, passages, strict=True):
        row = _row(task, spec, found, passage)
        row["same_codec"] = _per_step(task, passage) / bp_payload[BASELINE, row["codec"]]
        rows.append(row)
        raw.append({**asdict(passage), "codec": row["codec"], "curve": asdict(found)})
    rows.insert(peers, _weight_transport(task, curves[0], rows[peers]))
    measured = zip(rows[:peers] + rows[peers + 1 :], described, strict=True)
    bp = [row for row, (spec, _) in measured if spec.rule == BASELINE]
    for key, best in (("payload_mb", "best_bytes"), ("seconds", "best_seconds")):
        least = min((row[key] for row in bp if row.get(key)), default=None)
        for row in rows:
            row[best] = row[key] / least if least and row.get(key) else None
    return rows, raw


def _row(task: Task, spec: RunSpec, found: Curve, passage: Passage) -> dict[str, Any]:
    """The row of one configuration, not yet compared with others."""

    def per_step(count: int | None) -> float | None:
        return None if count is None else count / _whole_batches(task, passage) / KB

    steps = found.steps[-1] if found.reached else None
    rate = passage.samples_per_second
    return {
        "name": passage.name,
        "codec": _key(spec)[1],
        "payload_kb": per_step(passage.payload_bytes),
        "message_kb": per_step(passage.message_bytes),
        "interface_kb": per_step(passage.interface_bytes),
        "steps": steps,
        "payload_mb": found.payload_bytes[-1] / MB if steps else None,
        "samples_per_second": rate,
        "seconds": _samples(task, steps) / rate if steps and rate else None,
    }


def _weight_transport(task: Task, found: Curve, bp: dict[str, Any]) -> dict[str, Any]:
    """In closed form: bp that sends delta_{l+1} and, without a feedback matrix, also W_{l+1} down in every step."""
    network, width = task.recipe.network, task.recipe.signal_dtype.itemsize
    signals = sum(network[l].outputs + network[l + 1].outputs for l in network.boundaries)
    weights = sum(weight.rows * weight.columns for l in network.boundaries for weight in network[l + 1].weights)
    per_row, per_step = width * signals, width * weights
    step = per_row * task.recipe.batch_size + per_step
    row = {"name": "weight transport, computed", "codec": bp["codec"], "steps": bp["steps"]}
    row |= {"payload_kb": step / KB, "same_codec": step / KB / bp["payload_kb"]}
    if found.reached:
        row["payload_mb"] = (per_row * _samples(task, bp["steps"]) + per_step * bp["steps"]) / MB
    return row


def _per_step(task: Task, passage: Passage) -> float:
    return passage.payload_bytes / _whole_batches(task, passage)


def _whole_batches(task: Task, passage: Passage) -> float:
    """The samples of a passage in batches; a short batch at the end of an epoch counts as the part that it is."""
    return passage.steps if passage.whole_batches else _samples(task, passage.steps) / task.recipe.batch_size


def _samples(task: Task, steps: int) -> int:
    """Rows in this many steps; the last batch of an epoch may be smaller."""
    total = len(task.inputs.train)
    epochs, rest = divmod(steps, order.steps_per_epoch(task.recipe, total))
    return epochs * total + rest * task.recipe.batch_size


def _key(spec: RunSpec) -> tuple[str, str]:
    return variants.name(spec), f"{spec.codec.activations}/{spec.codec.errors}"


def _settings(options: CommOptions, base: RunSpec, task: Task) -> dict[str, Any]:
    return {
        "data": base.data.name,
        "layer_sizes": list(task.recipe.network.sizes),
        "seed": base.seed,
        "base": base.model_dump(mode="json", exclude_defaults=True),
        "rules": options.rules,
        "codecs": [variants.pair(word) for word in options.codecs],
        "target": options.share,
        "evaluate_every": options.eval_steps,
        "megabits_per_second": options.mbit or None,
        "warmup": options.warmup,
        "link_steps": options.link_steps,
        "search": {"rates": options.rates, "decays": options.decays, "seeds": options.seeds},
    }


def _notes(options: CommOptions, specs: Sequence[RunSpec], curves: Sequence[Curve], *, linked: bool) -> list[str]:
    notes = [
        f"{variants.name(spec)} with codecs {_key(spec)[1]} did not reach {options.share:.2%} in {found.steps[-1]:,} "
        f"steps; its best was {max(found.accuracy):.2%}"
        for spec, found in zip(specs, curves, strict=True)
        if not found.reached
    ]
    if linked:
        delay = options.delay_ms
        slowed = f"a delay of {delay:g} ms for every message (torch's pipelines have none)" if delay else "no delay"
        secured = "plain text" if options.insecure else "mutual TLS"
        notes.append(
            f"links of {options.mbit:g} Mbit/s each way per layer, {slowed}; distfa on a Ray cluster "
            f"of one node per layer with {secured}, gloo in plain text; all nodes share this machine's cores; the "
            "pipelines' steps to target are those of lossless bp"
        )
    return notes
