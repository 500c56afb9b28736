"""conservation: both sides of the law along training, by every rule that has one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from distfa.bench.pace import Say, paced
from distfa.core.books.ledger import LedgerRecord
from distfa.data import Dataset
from distfa.lab.questions.base import Answer, Question, QuestionOptions, Row
from distfa.lab.questions.training import dataset, record_training, rule_of
from distfa.pages.plots import Figure, category

_STEPS, _QUICK_STEPS, _LR = 400, 40, 0.02
_FIRST_ORDER = 0.7  # at half the rate at most this share of the drift may be left; in the limit it is one half
_ROUNDING = 1e-9
_NETWORKS = ("mlp", "conv")
COLUMNS = {
    "network": "network",
    "rule": "rule",
    "incoming": "growth of 1/2 ||W||^2",
    "potential": "growth of the potential",
    "drift": "drift to growth, %",
    "half": "the same at half the rate, %",
    "residual": "unexplained, largest",
}


def _answer(asked: QuestionOptions, say: Say) -> Answer:
    on, steps = dataset(asked, QUESTION.data), _QUICK_STEPS if asked.quick else _STEPS
    rows: list[Row] = []
    raw: list[Row] = []
    lawful = [name for name in asked.rules if rule_of(name).potential]
    say = paced(say, len(_NETWORKS) * len(lawful))
    for network in _NETWORKS:
        for rule in lawful:
            full, half = (_run(on, network, rule, lr, round(steps * _LR / lr)) for lr in (_LR, _LR / 2))
            sides, later = _sides(full), _sides(half)
            rows.append(
                {
                    "network": network,
                    "rule": rule,
                    "incoming": sides[-1][1],
                    "potential": sides[-1][2],
                    "drift": 100 * _drift(sides),
                    "half": 100 * _drift(later),
                    "residual": max(abs(e.residual) + abs(e.transport) for e in (*full, *half)),
                }
            )
            raw.append({"network": network, "rule": rule, "sides": sides})
            say(f"{network} {rule}: drift {rows[-1]['drift']:.2f} % of the growth")
    return Answer(
        rows=rows,
        columns=COLUMNS,
        verdict=_verdict(rows),
        budget=f"{on.name}; {' and '.join(_NETWORKS)}, float64, SGD {_LR:g} and "
        f"half of it, {steps} and {2 * steps} steps of 64, ReLU, dkp without decay, one seed",
        figures=[_figure(raw)],
        raw=raw,
    )


def _run(on: Dataset, network: str, rule: str, lr: float, steps: int) -> list[LedgerRecord]:
    decay = {"feedback": {"decay": 0.0}} if rule_of(rule).takes_decay else {}
    settings: dict[str, Any] = {"rule": rule, "dtype": "float64", "optimizer": {"name": "sgd", "lr": lr}, **decay}
    settings |= {"batch_size": 64, "max_steps": steps, "ledger": {"every": 1}, "model": {"hidden": (64, 64)}}
    return record_training(settings, on, model=_conv(on) if network == "conv" else None).ledger


def _conv(on: Dataset) -> nn.Sequential:
    """Three convolutions and a Linear, all homogeneous."""
    torch.manual_seed(0)
    channels, *size = on.shape if len(on.shape) == 3 else (1, *on.shape)
    parts: list[nn.Module] = []
    for before, after in ((channels, 8), (8, 8), (8, 8)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    inputs = 8 * (size[0] // 2) * (size[1] // 2)
    return nn.Sequential(*parts, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inputs, on.outputs)).double()


def _sides(entries: Sequence[LedgerRecord]) -> list[tuple[int, float, float]]:
    """(step, growth of 1/2 ||W||^2, growth of the potential) since the start, over all boundaries.

    A renewal moves the potential outside the law (at step 0, if the weights cannot be drawn from a seed); it is left
    out.
    """
    steps: dict[int, list[LedgerRecord]] = {}
    for entry in entries:
        steps.setdefault(entry.step, []).append(entry)
    start = sum(entry.incoming for entry in steps[0])
    found, drifted = [], 0.0
    for step, of_step in sorted(steps.items()):
        drifted += sum(entry.change - entry.renewal for entry in of_step)
        grown = sum(entry.incoming for entry in of_step) - start
        found.append((step, grown, grown - drifted))
    return found


def _drift(sides: list[tuple[int, float, float]]) -> float:
    """How far the two sides differ, as a share of how far they grew."""
    went = sum(abs(after[1] - before[1]) for before, after in pairwise(sides))
    return abs(sides[-1][1] - sides[-1][2]) / went if went else 0.0


def _verdict(rows: list[Row]) -> str:
    first_order = [row for row in rows if row["half"] < _FIRST_ORDER * row["drift"] or row["drift"] < _ROUNDING]
    drifts, exact = [row["drift"] for row in rows], max(row["residual"] for row in rows)
    said = (
        f"The two sides differ by {min(drifts):.2f} to {max(drifts):.2f} % of their growth. Under gradient flow they "
        "would not differ, and at half the rate, over the same training time, they differ by clearly less in "
        f"{len(first_order)} of {len(rows)} runs; the ledger leaves {exact:.1g} of any step unexplained. "
    )
    if len(first_order) < len(rows) or exact >= _ROUNDING:
        return said + "Not all of the runs agree with the claim."
    return said + (
        "This agrees with the claim that a conservation law governs the weights; it does not show that the law is what "
        "maintains alignment."
    )


def _figure(raw: list[dict[str, Any]]) -> Figure:
    figure = Figure("sides", "Both sides of the law")
    networks, names = ([*dict.fromkeys(run[key] for run in raw)] for key in ("network", "rule"))
    figure.panels(
        [f"{network}: growth since the start" for network in networks],
        "Solid: growth of the incoming weights; dashed: of the potential. Where the law holds, the two lines coincide.",
        columns=2,
    )
    for run in raw:
        hue, panel = category(names.index(run["rule"]) + 1)["hue"], networks.index(run["network"])
        for side, name, style in ((1, "weights", {"width": 4, "opacity": 0.5}), (2, "potential", {"dash": "8px,5px"})):
            points = [(entry[0], entry[side]) for entry in run["sides"]]
            figure.line(points, f"{run['rule']}: {name}", hue, panel=panel, showlegend=panel == 0, **style)
    return figure


QUESTION = Question(
    name="conservation",
    title="Do both sides of the conservation law grow by the same amount?",
    claim="A conservation law links changes in the weights to an implicit regularisation that maintains alignment "
    "with the gradient.",
    data="digits",
    answer=_answer,
)
