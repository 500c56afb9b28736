"""Communication: bytes per step, bytes to a target accuracy, and time to it over shaped links.

Accuracy by steps comes from the serial engine, bit-equal to a distributed run; speed and bytes on the interfaces
from a run of some steps over the links. Time to the target is steps to the target divided by steps per second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distfa.bench import variants
from distfa.bench.outcome import Outcome
from distfa.core.base import order
from distfa.core.rules import BASELINE
from distfa.errors import BenchError
from distfa.lab.links import link_runs, tuned
from distfa.lab.links.accuracy_curve import Curve
from distfa.lab.links.conclusion import conclusion
from distfa.lab.links.link_runs import Passage
from distfa.lab.links.namespaces import Nodes, obstacle
from distfa.lab.links.tuned import Search
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.run.disk.host import processor
from distfa.settings import RunSpec, parse_spec
from distfa.text.words import KB, MB, counted

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        base: Everything except rule and codecs.
        rules: Feedback rules; bp is always measured too.
        codecs: (activations, errors); lossless is always measured too.
        target: Test accuracy, 0 to 1.
        evaluate_every: Steps between evaluations.
        megabits_per_second: Rate of every node's link in each direction; None for no links, and so no times.
        search: What is tried for every rule before the comparison, and the number of seeds.
        warmup: Steps before the measurement of speed begins, at least 1.
        link_steps: Steps of that measurement.
    """

    base: RunSpec
    rules: Sequence[str]
    codecs: Sequence[tuple[str, str]]
    target: float
    evaluate_every: int
    megabits_per_second: float | None
    warmup: int
    link_steps: int
    search: Search = Search()

    def specs(self) -> list[RunSpec]:
        """One spec per rule and codec, lossless bp first."""
        common = self.base.model_dump(mode="json")
        return [
            parse_spec({**common, **variants.settings(rule), "codec": {"activations": up, "errors": down}})
            for rule in dict.fromkeys((BASELINE, *self.rules))
            for up, down in dict.fromkeys((_EXACT, *self.codecs))
        ]


def measure(plan: Plan, *, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Make the measurements of a plan.

    Args:
        plan: What to measure.
        say: Called with what is about to run.

    Raises:
        BenchError: It cannot be measured as asked, or a run failed.
        SpecError: A rule or codec does not exist, or settings do not fit it.
    """
    task = Task.of(plan.base)
    specs = [variants.sparing(spec, task.recipe.network) for spec in plan.specs()]
    _check(plan, task)
    layers = len(task.recipe.network)
    nodes, why = _nodes(plan, layers)
    how: dict[str, Any] = {"every": plan.evaluate_every, "target": plan.target, "say": say}
    best = tuned.tune(specs, plan.search, **how)
    specs, by_seed = [spec for spec, _ in best], [curves for _, curves in best]
    curves = [tuned.median(curves) for curves in by_seed]
    steps = plan.warmup + plan.link_steps
    passages = link_runs.passages(
        [spec.model_copy(update={"max_steps": steps, "epochs": steps}) for spec in specs],
        link_runs.pipelines(plan.base, layers),
        layers=layers,
        nodes=nodes,
        warmup=plan.warmup,
        say=say,
    )
    rows, raw = _rows(task, specs, curves, list(passages))
    if plan.search.seeds > 1 or plan.search.candidates:
        _tell_tuned(rows, specs, by_seed)
    for row, curves_of in zip(raw[len(raw) - len(specs) :], by_seed, strict=True):
        row["curves"] = [asdict(curve) for curve in curves_of]
    notes = _notes(plan, specs, curves, linked=nodes is not None)
    own = rows[len(rows) - len(specs) :]
    said = conclusion(own, [spec.rule for spec in specs], by_seed, plan.target)
    return Outcome(
        name="comm",
        settings=_settings(plan, task),
        columns=COLUMNS,
        rows=rows,
        notes=[_told_task(plan, task), _READ, *_seeds(plan), *([why] if why else []), *notes, said],
        raw=raw,
    )


def _seeds(plan: Plan) -> list[str]:
    """Note what was tuned, and over how many seeds the figures are medians."""
    search, found = plan.search, []
    if search.candidates:
        rates, decays = (", ".join(f"{value:g}" for value in values) for values in (search.rates, search.decays))
        tried = f"(rates {rates}; cosine over {decays} steps)"
        found.append(
            f"every rule has with every codec the best of {search.candidates} settings {tried}: the fewest steps to "
            f"the target for the median seed, evaluated every {plan.evaluate_every} steps"
            if search.candidates > 1
            else f"every rule and codec has the same setting {tried}, evaluated every {plan.evaluate_every} steps"
        )
    if search.seeds > 1:
        found.append(f"steps and MB are those of the median of {search.seeds} seeds; least-most are the steps of all")
    else:
        found.append("one seed: steps to the target may move by an evaluation or two")
    return found


def _tell_tuned(rows: list[dict[str, Any]], specs: Sequence[RunSpec], by_seed: Sequence[Sequence[Curve]]) -> None:
    """Add the settings and spread of distfa's rows, which are the last ones."""
    for row, spec, curves in zip(rows[len(rows) - len(specs) :], specs, by_seed, strict=True):
        row |= {"rate": spec.optimizer.lr, "decay": spec.max_steps, "spread": tuned.spread(curves)}


def _told_task(plan: Plan, task: Task) -> str:
    """Note what was trained, so that two reports can be distinguished."""
    base, network = plan.base, task.recipe.network
    sizes = "-".join(map(str, network.sizes))
    rate = "" if plan.search.candidates else f" at {base.optimizer.lr:g}"
    seeds = f"{counted(plan.search.seeds, 'seed')} from {base.seed}" if plan.search.seeds > 1 else f"seed {base.seed}"
    return (
        f"the task: {base.data.name}, {len(task.inputs.train):,} training samples; {base.model.name} {sizes}; batch "
        f"{base.batch_size} in {counted(base.micro_batches, 'micro-batch', 'micro-batches')}, "
        f"{base.optimizer.name}{rate}, {seeds}; on {processor()}, {counted(cores(), 'core')}"
    )


def _check(plan: Plan, task: Task) -> None:
    layers, tests = len(task.recipe.network), len(task.inputs.test)
    if layers < 2 or not tests:
        raise BenchError(
            f"there is nothing to send or nothing to test: {layers} layers and {tests} test samples; take a hidden "
            "layer and a data set with a test set"
        )
    if plan.base.wire.delay_ms and plan.megabits_per_second is None:
        raise BenchError(
            f"messages are to be {plan.base.wire.delay_ms:g} ms late, and there are no links; give their rate, too"
        )
    if plan.evaluate_every > order.count_steps(task.recipe, len(task.inputs.train)):
        raise BenchError(
            f"an evaluation every {plan.evaluate_every} steps is more than the run has; evaluate more often, or allow "
            "more steps"
        )


def _nodes(plan: Plan, layers: int) -> tuple[Nodes | None, str]:
    """The nodes, not yet made; or None, with a note if they are asked for and cannot be made."""
    if plan.megabits_per_second is None:
        return None, ""
    nodes = Nodes(layers, megabits_per_second=plan.megabits_per_second)
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


def _settings(plan: Plan, task: Task) -> dict[str, Any]:
    told = {"data": plan.base.data.name, "layer_sizes": list(task.recipe.network.sizes), "seed": plan.base.seed}
    return {**told, **asdict(plan), "base": plan.base.model_dump(mode="json", exclude_defaults=True)}


def _notes(plan: Plan, specs: Sequence[RunSpec], curves: Sequence[Curve], *, linked: bool) -> list[str]:
    notes = [
        f"{variants.name(spec)} with codecs {_key(spec)[1]} did not reach {plan.target:.2%} in {found.steps[-1]:,} "
        f"steps; its "
        f"best was {max(found.accuracy):.2%}"
        for spec, found in zip(specs, curves, strict=True)
        if not found.reached
    ]
    if linked:
        delay = plan.base.wire.delay_ms
        slowed = f"a delay of {delay:g} ms for every message (torch's pipelines have none)" if delay else "no delay"
        secured = "plain text" if plan.base.wire.security == "insecure" else "mutual TLS"
        notes.append(
            f"links of {plan.megabits_per_second:g} Mbit/s each way per layer, {slowed}; distfa on a Ray cluster "
            f"of one node per layer with {secured}, gloo in plain text; all nodes share this machine's cores; the "
            "pipelines' steps to target are those of lossless bp"
        )
    return notes
