"""Several runs on one page: what they differ in, a table of their results, and their curves in one set of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from distfa.errors import RunDirError
from distfa.pages.page import Box, Page, Table
from distfa.pages.plots import Figure, category
from distfa.report.groups import Seeds, differences, group_seeds, setting_of
from distfa.report.records import Run, read_run
from distfa.report.training import draw_curves, draw_mean
from distfa.text.words import MB, figure

_FORMATS = {
    **{"test accuracy": "{:.2%}", "least": "{:.2%}", "most": "{:.2%}", "test loss": "{:.4f}", "train loss": "{:.4f}"},
    **{"cosine": "{:.3f}", "steps": "{:,.0f}", "MB sent": "{:,.1f}", "samples/s": "{:,.0f}", "seconds": "{:.1f}"},
}
_OVERLAP = "The seeds of {} and {} overlap: the difference between them may be chance."


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None, *, shared: bool = False) -> Path:
    """Write one page about several runs.

    Args:
        run_dirs: As ``distfa train`` leaves them; two or more.
        out: The page; ``comparison.html`` in the working directory if not given.
        shared: As for ``Page.write``.

    Raises:
        RunDirError: One is not a run directory, or the page cannot be written.
    """
    if len(run_dirs) < 2:
        raise RunDirError("a comparison needs at least two runs")
    runs = [read_run(path) for path in run_dirs]
    out = Path("comparison.html") if out is None else out
    _page(runs).write(out, shared=shared)
    return out


def _page(runs: Sequence[Run]) -> Page:
    """The page; if settings have several seeds, a table of their means comes first and one of all runs last."""
    groups = group_seeds(runs)
    seeds = len(groups) < len(runs)
    return Page(
        title=f"{len(runs)} runs compared",
        subtitle=", ".join(str(run.path) for run in runs),
        parts=[
            Box("In short", _sentences(groups), "says"),
            _means(groups) if seeds else _table(runs),
            _curves(groups),
            _alignment(groups),
            *([_table(runs)] if seeds else []),
        ],
    )


def _sentences(groups: Sequence[Seeds]) -> list[str]:
    """What the runs differ in, which is best and by how much, which sent the fewest bytes."""
    runs = [run for group in groups for run in group.runs]
    keys = differences(runs)
    found = [f"They differ in {' and '.join(keys)}." if keys else "They have the same settings."]
    done = [group for group in groups if group.results("test_loss")]
    if len({run.about.get("data_digest") for run in runs}) > 1:
        found.append("They were not trained on the same data, so their figures cannot be compared with each other.")
    elif done:
        found += _best(done)
    sent = [(fmean(map(_bytes_sent, group.runs)), group.name) for group in groups if all(map(_bytes_sent, group.runs))]
    if len(sent) > 1:
        least, most = min(sent), max(sent)
        found.append(
            f"{least[1]} sent the fewest bytes between layers: {least[0] / most[0]:.2f} times those of {most[1]}."
        )
    return found


def _best(done: Sequence[Seeds]) -> list[str]:
    """Which group is, or which groups are, the best on the test set, and whether that may be chance."""
    by_accuracy = all(group.results("test_accuracy") for group in done)
    key, form = ("test_accuracy", ".2%") if by_accuracy else ("test_loss", ".4f")
    ranked = sorted(done, key=lambda group: group.mean(key), reverse=by_accuracy)
    best, said = ranked[0], _say(ranked[0], key, form)
    equal = [group.name for group in ranked if group.mean(key) == best.mean(key)]
    if len(done) == 1:
        return [f"{best.name} on the test set: {said}. There is nothing to compare it with."]
    if len(equal) > 1:
        return [f"Best on the test set, and equal: {'; '.join(equal)}: {said}."]
    found = [f"Best on the test set: {best.name}, {said}; next: {ranked[1].name}, {_say(ranked[1], key, form)}."]
    if min(len(group.runs) for group in done) == 1:
        note = (
            "Some setting has only one seed: small differences mean nothing, since another seed alone would cause some."
        )
        return [*found, note]
    ours, theirs = (group.results(key) for group in ranked[:2])
    overlap = min(ours) <= max(theirs) and min(theirs) <= max(ours)
    return [*found, _OVERLAP.format(best.name, ranked[1].name)] if overlap else found


def _say(group: Seeds, key: str, form: str) -> str:
    """A figure; of several seeds their mean and range."""
    found = group.results(key)
    said = figure(fmean(found), form)
    if len(found) == 1:
        return said
    return f"{said} on average over {len(found)} seeds ({figure(min(found), form)} to {figure(max(found), form)})"


def _bytes_sent(run: Run) -> int:
    total = run.result.get("bytes", {}).get("total") or {}
    return (total.get("up_payload") or 0) + (total.get("down_payload") or 0) if total.get("up_message") else 0


def _table(runs: Sequence[Run]) -> Table:
    """A row per run, with the settings in which it differs first."""
    keys = differences(runs)
    beside = {run.path: {"run": run.path.name, "status": str(run.about.get("status", "?"))} for run in runs}
    return _shown([_settings(run, keys) | _figures(run) | beside[run.path] for run in runs])


def _means(groups: Sequence[Seeds]) -> Table:
    """A row per group: the means over its seeds, and the range of its accuracy."""
    keys = [key for key in differences([run for group in groups for run in group.runs]) if key != "seed"]
    rows = []
    for group in groups:
        found = [_figures(run) for run in group.runs]
        means: dict[str, Any] = {}
        for head in found[0]:
            values = [figures[head] for figures in found]
            means[head] = None if None in values else fmean(values)
            if head == "test accuracy" and means[head] is not None:
                means |= {"least": min(values), "most": max(values)}
        rows.append(_settings(group.runs[0], keys) | {"seeds": len(group.runs)} | means)
    return _shown(rows)


def _shown(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The columns that have something to show."""
    heads = [
        head
        for head in dict.fromkeys(head for row in rows for head in row)
        if any(row.get(head) is not None for row in rows)
    ]
    return Table(columns={head: head for head in heads}, rows=rows, formats=_FORMATS)


def _settings(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    return {key: setting_of(run, key) for key in keys}


def _figures(run: Run) -> dict[str, Any]:
    return {
        "test accuracy": run.result.get("test_accuracy"),
        "test loss": run.result.get("test_loss"),
        "train loss": run.result.get("train_loss"),
        "cosine": run.probes[-1]["cosine"] if run.probes else None,
        "MB sent": _bytes_sent(run) / MB or None,
        "steps": run.result.get("steps"),
        "samples/s": run.result.get("samples_per_second"),
        "seconds": run.result.get("wall_seconds"),
    }


def _curves(groups: Sequence[Seeds]) -> Figure:
    """Test figures over steps; training figures for a run without a test set."""
    drawn = Figure("curves", "Test loss and accuracy")
    if not any(run.evals or run.steps for group in groups for run in group.runs):
        return drawn.without("No run has a logged step.")
    see = "After each evaluation; for a run without a test set the figures of its training batches." + _note_band(
        groups
    )
    named = [(group.name, [run.evals or run.steps for run in group.runs]) for group in groups]
    draw_curves(drawn, see, [(name, rows, category(number)) for number, (name, rows) in enumerate(named, start=1)])
    return drawn


def _alignment(groups: Sequence[Seeds]) -> Figure:
    drawn = Figure("alignment", "Alignment with the true gradient")
    if not any(run.probes for group in groups for run in group.runs):
        return drawn.without("No run has probes (probe.every).")
    see = "1 is the direction of backpropagation itself, 0 is unrelated to it." + _note_band(groups)
    drawn.panels(["cosine"], see)
    for number, group in enumerate(groups, start=1):
        lines = [[(row["step"], row["cosine"]) for row in run.probes] for run in group.runs]
        draw_mean(drawn, lines, group.name, category(number))
    return drawn


def _note_band(groups: Sequence[Seeds]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    return " A line is the mean of its seeds; the band around it reaches from the least to the most." if several else ""
