"""depth: does a rule train deep layers at all? Cosines, scales, and a baseline whose lower layers are frozen."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from distfa.bench.pace import Say, paced
from distfa.core.books.probe import ProbeRecord
from distfa.core.rules import BASELINE
from distfa.data import Dataset
from distfa.lab.questions.base import Answer, Question, QuestionOptions, Row, split_by
from distfa.lab.questions.intervals import ahead, mean
from distfa.lab.questions.training import dataset, record_training
from distfa.pages.plots import Figure, category

_DEPTHS, _QUICK_DEPTHS = (2, 4, 8, 16), (2, 4)
_STEPS, _QUICK_STEPS, _WIDTH, _CHANNELS = 300, 20, 64, 8
_AHEAD = 1.0  # percentage points above the frozen baseline that count as training the layers below
FROZEN = "frozen below"
COLUMNS = {
    "network": "network",
    "layers": "layers",
    "rule": "rule",
    "accuracy": "test accuracy, %",
    "over": "points over frozen below",
    "low": "95 % from",
    "lowest": "cosine, layer 1",
    "hidden": "cosine, hidden layers",
    "scale": "update / gradient, layer 1 to last hidden",
}


def _answer(asked: QuestionOptions, say: Say) -> Answer:
    on, steps = dataset(asked, QUESTION.data), _QUICK_STEPS if asked.quick else _STEPS
    depths, raw = _QUICK_DEPTHS if asked.quick else _DEPTHS, list[Row]()
    say = paced(say, 2 * len(depths))
    for network in ("mlp", "conv"):
        for depth in depths:
            for rule in (FROZEN, *asked.rules):
                for seed in range(asked.seeds):
                    raw.append({"network": network, "layers": depth, "rule": rule, "seed": seed})
                    raw[-1] |= _run(on, network, depth, rule, seed, steps)
            of = [run for run in raw if (run["network"], run["layers"]) == (network, depth)]
            say(f"{network} of {depth}: " + ", ".join(f"{r} {_of(of, r):.1f}" for r in (FROZEN, *asked.rules)))
    rows = _rows(raw)
    return Answer(
        rows=rows,
        columns=COLUMNS,
        verdict=verdict(rows, asked.seeds),
        budget=f"{on.name}; width {_WIDTH}, or {_CHANNELS} channels with BatchNorm; Adam 1e-3, {steps} steps of 64, "
        f"{asked.seeds} seed(s), aligned starts; nothing tuned",
        figures=[_figure(rows)],
        raw=raw,
    )


def _run(on: Dataset, network: str, depth: int, rule: str, seed: int, steps: int) -> Row:
    torch.manual_seed(seed)
    model = (_mlp if network == "mlp" else _conv)(on, depth)
    if rule == FROZEN:
        for part in list(model)[:-1]:
            part.requires_grad_(False)
    settings = {"rule": BASELINE if rule == FROZEN else rule, "seed": seed, "max_steps": steps, "batch_size": 64}
    settings |= {"optimizer": {"name": "adam", "lr": 1e-3}}
    probe = {"every": 0 if rule == FROZEN else max(1, steps // 5)}
    given = {"init": "given"} if rule == FROZEN else {}
    done = record_training({**settings, **given, "probe": probe}, on, model=model)
    return {"accuracy": 100 * done.test, **(_summarize(done.probes[-1]) if done.probes else {})}


def _mlp(on: Dataset, depth: int) -> nn.Sequential:
    sizes, parts = [on.features, *[_WIDTH] * (depth - 1)], [nn.Flatten()] if len(on.shape) > 1 else []
    modules: list[nn.Module] = [*parts]
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(_WIDTH, on.outputs))


def _conv(on: Dataset, depth: int) -> nn.Sequential:
    channels = on.shape[0] if len(on.shape) == 3 else 1
    modules: list[nn.Module] = []
    for before in (channels, *[_CHANNELS] * (depth - 2)):
        conv = nn.Conv2d(before, _CHANNELS, 3, padding=1, bias=False)
        modules += [conv, nn.BatchNorm2d(_CHANNELS), nn.ReLU()]
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * _CHANNELS, on.outputs))


def _summarize(probe: ProbeRecord) -> Row:
    """Cosines of the hidden layers, and the ratio of update to gradient from the first to the last."""
    hidden = probe.layers[:-1]
    ratio = [layer.update_norm / layer.gradient_norm if layer.gradient_norm else 0.0 for layer in hidden]
    return {
        "cosines": [layer.cosine for layer in probe.layers],
        "lowest": hidden[0].cosine,
        "hidden": mean([layer.cosine for layer in hidden]),
        "scale": ratio[0] / ratio[-1] if ratio[-1] else None,
    }


def _of(runs: list[Row], rule: str) -> float:
    return mean([run["accuracy"] for run in runs if run["rule"] == rule])


def _rows(raw: list[Row]) -> list[Row]:
    rows = []
    for (network, layers), here in split_by(raw, "network", "layers").items():
        frozen = split_by(here, "rule")[FROZEN]
        for rule, mine in split_by(here, "rule").items():
            row = {"network": network, "layers": layers, "rule": rule, "accuracy": _of(here, rule)}
            row["over"], row["low"], _ = (None, None, None) if rule == FROZEN else ahead(mine, frozen, "accuracy")
            for key in ("lowest", "hidden", "scale"):
                known = [run[key] for run in mine if run.get(key) is not None]
                row[key] = mean(known) if known else None
            rows.append(row)
    return rows


def verdict(rows: list[Row], seeds: int) -> str:
    """By network, at the greatest depth; ahead is more than a point, and beyond what another seed would do."""
    deepest = max(row["layers"] for row in rows)
    said = []
    for network, of in split_by(rows, "network").items():
        deep = [row for row in of if row["layers"] == deepest and row["over"] is not None]
        over = [row for row in deep if row["over"] > _AHEAD]
        sure = [row for row in over if seeds < 2 or row["low"] > 0]
        kinds = {
            "ahead of its frozen-below baseline by more than a point": sure,
            "not ahead": [row for row in deep if row not in over],
            f"ahead, but {seeds} seeds cannot distinguish it from chance": [row for row in over if row not in sure],
        }
        told = [f"{kind}: {_told(some)}" for kind, some in kinds.items() if some or some is sure]
        said.append(f"In the {network} of {deepest} layers, {'; '.join(told)}.")
    units = f"{seeds} seeds being the units" if seeds > 1 else "of one seed, so perhaps by chance"
    return " ".join(said) + (
        f" A rule that is ahead trains the layers below the output ({units}). The abstract makes no claim about depth, "
        "so there is nothing to agree with."
    )


def _told(rows: list[Row]) -> str:
    return ", ".join(f"{row['rule']} ({row['over']:+.1f})" for row in rows) or "none"


def _figure(rows: list[Row]) -> Figure:
    figure = Figure("depth", "Depth")
    networks, names = ([*dict.fromkeys(row[key] for row in rows)] for key in ("network", "rule"))
    titles = [f"{network}: {what}" for what in ("test accuracy, %", "cosine of hidden layers") for network in networks]
    see = "A rule that does no better than 'frozen below' trains only the output layer, whatever its cosine."
    figure.panels(titles, see, columns=2, x_title="layers")
    shown = [(key, network) for key in ("accuracy", "hidden") for network in networks]
    for panel, (key, network) in enumerate(shown):
        figure.x(panel).update(type="log", tickvals=sorted({row["layers"] for row in rows}))
        for index, rule in enumerate(names, start=1):
            mine = [row for row in rows if (row["network"], row["rule"]) == (network, rule)]
            if points := [(row["layers"], row[key]) for row in mine if row[key] is not None]:
                figure.line(points, rule, **category(index), panel=panel, showlegend=panel == 0, legendgroup=rule)
    return figure


QUESTION = Question(
    name="depth",
    title="Does a rule train deep layers at all?",
    claim="The abstract says nothing about depth; accuracy and cosine alone do not show whether lower layers learn.",
    data="digits",
    answer=_answer,
)
