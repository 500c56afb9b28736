"""``distfa bench books``: what the books cost, what they catch, and the law they keep, on the serial engine."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from distfa import data
from distfa.bench.options import BooksOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.core import rules
from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import ProbeConfig, Recipe
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.records import Record, StepRecord
from distfa.core.serial import Carry, SerialTrainer, carry_unchanged
from distfa.data import Dataset
from distfa.intake.subject import network_for
from distfa.measuring.task import Task
from distfa.settings import RunSpec

_SETTLED = 20  # steps before a fault is planted: the first steps are not typical
_TOLD = 10  # lines of progress while faults are planted
_FEW = 500  # rows for drift
_RATES = (0.05, 0.025, 0.0125)
_TIME = 2.5
_SIZES = tuple(d * 10.0**-e for e in range(7, -1, -1) for d in (1, 3))


def measure(options: BooksOptions, say: Say) -> Iterator[tuple[str, Outcome]]:
    """Make the three measurements; yields (file, outcome) of each.

    Raises:
        DistfaError: A run failed, or the options do not fit a rule.
    """
    fixed = {"optimizer.lr": 3e-4, "epochs": 10**6, "engine": "serial"}
    wide = [options.spec({**fixed, "rule": rule}) for rule in options.rules]
    sixteenth = [max(1, width // 16) for width in options.hidden]
    narrow = [options.spec({**fixed, "rule": rule, "model.hidden": sixteenth}) for rule in options.rules]
    dataset, few = (data.load(options.data, directory=options.data_dir, limit=limit) for limit in (None, _FEW))
    yield "bench-books-cost.json", measure_cost(wide, dataset, rounds=options.rounds, say=say)
    for spec in wide:
        yield f"bench-books-faults-{spec.rule}.json", measure_faults(spec, dataset, say)
    yield "bench-books-drift.json", measure_drift(narrow, few, rates=_RATES, total_time=_TIME, say=say)


def measure_cost(specs: list[RunSpec], dataset: Dataset, *, rounds: int, say: Say) -> Outcome:
    """Processor time of runs with ledger and probes divided by that of runs without, for every rule.

    Args:
        specs: One per rule, with the books as often as they are to be measured.
        dataset: What to train on.
        rounds: Pairs of runs; the steps of the two are made in turn, so that both see the same machine.
        say: Called as each pair ends.
    """
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    say = paced(say, len(specs) * rounds)
    for recipe in (recipe_for(spec, dataset) for spec in specs):
        plain = recipe.without_books()
        pairs = []
        for number in range(1, rounds + 1):
            pairs.append(_cpu_seconds(recipe, plain, dataset))
            say(f"cost: {recipe.rule}, pair {number}: {pairs[-1][0] / pairs[-1][1]:.3f}")
        ratios = [kept / without for kept, without in pairs]
        rows.append(
            {
                "rule": recipe.rule,
                "ratio": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "step_ms": 1e3 * statistics.median(plain for _, plain in pairs) / _steps(recipe, dataset),
            }
        )
        raw += [{"rule": recipe.rule, "with": kept, "without": without} for kept, without in pairs]
    first = recipe_for(specs[0], dataset)
    return Outcome(
        name="books-cost",
        settings={**_about(first), "rounds": rounds, "steps": _steps(first, dataset)},
        columns={
            "rule": "rule",
            "ratio": "CPU time with books / without, median",
            "least": "least",
            "most": "most",
            "step_ms": "CPU ms per step without",
        },
        rows=rows,
        notes=[
            f"ledger every {first.ledger.every} steps, probes every {first.probe.every}, one thread, serial engine; "
            "step 0 holds an entry and a probe"
        ],
        raw=raw,
    )


def measure_faults(spec: RunSpec, dataset: Dataset, say: Say) -> Outcome:
    """The smallest relative error in one number of one message that the law shows, per boundary and direction.

    Each planted fault has its own step; one number of the message is multiplied by 1 + the fault's size.
    """
    recipe, sizes = recipe_for(spec, dataset), _SIZES
    boundaries = list(recipe.network.boundaries)
    plan = list(itertools.product(boundaries, ("up", "down"), ("largest", "middling"), sizes))
    recipe = dataclasses.replace(_in_books(recipe), micro_batches=1, epochs=10**6, max_steps=_SETTLED + len(plan))
    planted = {_SETTLED + i: fault for i, fault in enumerate(plan)}
    hops = rules.build_rule(recipe).sending_order
    trainer = _trainer(recipe, dataset, _Tamper(planted, boundaries, "up"), _Tamper(planted, hops, "down"))
    caught: dict[tuple[int, str, str], list[bool]] = {}
    strays = 0
    each = max(1, len(plan) // _TOLD)
    told = paced(say, len(plan) // each)
    for record in trainer.run():
        if isinstance(record, StepRecord) and record.step >= _SETTLED and (record.step - _SETTLED + 1) % each == 0:
            told(f"faults: {recipe.rule}, {record.step - _SETTLED + 1} planted")
        if not isinstance(record, LedgerRecord):
            continue
        boundary, direction, which, _ = planted.get(record.step, (0, "", "", 0.0))
        if record.boundary == boundary:
            caught.setdefault((boundary, direction, which), []).append(not record.holds)
        elif not record.holds:
            strays += 1
    rows: list[dict[str, Any]] = [
        {"rule": recipe.rule, "boundary": b, "direction": way}
        | {which: _smallest(sizes, caught.get((b, way, which), [])) for which in ("largest", "middling")}
        for b, way in itertools.product(boundaries, ("up", "down"))
    ]
    return Outcome(
        name="books-faults",
        settings=_about(recipe),
        columns={
            "rule": "rule",
            "boundary": "boundary",
            "direction": "direction",
            "largest": "smallest relative error caught, largest number of the message",
            "middling": "the same, a number of median size",
        },
        rows=rows,
        notes=[
            f"entries at other boundaries or steps that claimed a fault: {strays}",
            "-: no error of up to 300 % in that number shows: the potential is stored with the layer, or the "
            "number does not matter; ledger.exact sees every altered bit of every signal",
        ],
    )


def measure_drift(
    specs: list[RunSpec], dataset: Dataset, *, rates: Sequence[float], total_time: float, say: Say
) -> Outcome:
    """How far Q drifts over equal training time T = lr x steps, by learning rate: it is first order in lr.

    Full-batch SGD, so that gradient flow is all there is to follow.
    """
    rows: list[dict[str, Any]] = []
    say = paced(say, len(specs) * len(rates))
    for spec in specs:
        before: float | None = None
        for lr in rates:
            steps = round(total_time / lr)
            recipe = dataclasses.replace(
                _in_books(recipe_for(spec, dataset)),
                optimizer=OptimizerConfig(name="sgd", lr=lr),
                dtype=torch.float64,
                batch_size=len(dataset.train_x),
                epochs=steps,
                max_steps=None,
            )
            change = dict.fromkeys(recipe.network.boundaries, 0.0)
            for record in _trainer(recipe, dataset).run():
                if isinstance(record, LedgerRecord):
                    change[record.boundary] += record.change
            total = sum(abs(value) for value in change.values())
            ratio = None if before is None else before / total
            rows.append(
                {"rule": spec.rule, "lr": lr, "steps": steps, "drift": total, "of_lr": total / lr, "ratio": ratio}
            )
            before = total
            say(f"drift: {spec.rule} at rate {lr:g}: {total:.3g}")
    return Outcome(
        name="books-drift",
        settings={**_about(recipe_for(specs[0], dataset)), "optimizer": "sgd", "dtype": "float64", "time": total_time},
        columns={
            "rule": "rule",
            "lr": "learning rate",
            "steps": "steps",
            "drift": "drift: sum over boundaries of |Q(T) - Q(0)|",
            "of_lr": "drift / learning rate",
            "ratio": "drift at the rate above / at this one",
        },
        rows=rows,
        notes=["full batches, so that training follows gradient flow alone, under which Q does not drift"],
    )


def _in_books(recipe: Recipe) -> Recipe:
    """The recipe with every step in the ledger, and no probes."""
    return dataclasses.replace(recipe, ledger=dataclasses.replace(recipe.ledger, every=1), probe=ProbeConfig(every=0))


def recipe_for(spec: RunSpec, dataset: Dataset) -> Recipe:
    """The recipe of a spec on this data set."""
    return spec.recipe(network_for(spec, dataset))


class _Tamper:
    """Carries signals of one direction, and alters one number where a fault is planted."""

    def __init__(self, planted: dict[int, tuple[int, str, str, float]], order: list[int], direction: str) -> None:
        self._planted, self._order, self._direction = planted, order, direction
        self._calls = 0

    def __call__(self, signal: Tensor) -> Tensor:
        step, place = divmod(self._calls, len(self._order))
        self._calls += 1
        boundary, direction, which, size = self._planted.get(step, (0, "", "", 0.0))
        if (boundary, direction) != (self._order[place], self._direction):
            return signal
        altered = signal.clone().flatten()
        magnitude = altered.abs()
        middling = magnitude[magnitude > 0].median()
        index = magnitude.argmax() if which == "largest" else (magnitude - middling).abs().argmin()
        altered[index] *= 1 + size
        return altered.view_as(signal)


def _smallest(sizes: tuple[float, ...], caught: list[bool]) -> float | None:
    """The smallest size from which on every fault was caught."""
    missed = max((i for i, found in enumerate(caught) if not found), default=-1)
    return sizes[missed + 1] if caught and missed + 1 < len(caught) else None


def _trainer(
    recipe: Recipe, dataset: Dataset, up: Carry = carry_unchanged, down: Carry = carry_unchanged
) -> SerialTrainer:
    torch.set_num_threads(1)
    return Task.on(dataset, recipe).without_test().trainer(up, down)


def _cpu_seconds(kept: Recipe, plain: Recipe, dataset: Dataset) -> tuple[float, float]:
    """Processor time of two runs of equal length, whose steps are made in turn."""
    runs = [_by_step(_trainer(recipe, dataset).run()) for recipe in (kept, plain)]
    spent = [0.0, 0.0]
    for step in range(_steps(kept, dataset)):
        for i in (0, 1) if step % 2 else (1, 0):
            began = time.process_time()
            next(runs[i])
            spent[i] += time.process_time() - began
    return spent[0], spent[1]


def _by_step(records: Iterator[Record]) -> Iterator[None]:
    """Yields after every step, once all its records have come."""
    next(records)
    for record in records:
        if isinstance(record, StepRecord):
            yield
    yield


def _steps(recipe: Recipe, dataset: Dataset) -> int:
    return order.count_steps(recipe, len(dataset.train_x))


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "layer_sizes": list(recipe.network.sizes),
        "rule": recipe.rule,
        "batch_size": recipe.batch_size,
        "dtype": str(recipe.dtype).removeprefix("torch."),
        "optimizer": recipe.optimizer.name,
    }
