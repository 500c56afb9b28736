"""Several runs on one page: a table of their results, and their curves in one set of axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distfa.errors import RunDirError
from distfa.pages.page import Box, Page, Table
from distfa.pages.plots import Figure, colour, thin
from distfa.report.records import Run, read_run
from distfa.report.training import draw_curves
from distfa.settings import flat
from distfa.text.words import MB

_BESIDE = ("run_dir", "log_every")
_FORMATS = {
    **{"test accuracy": "{:.2%}", "test loss": "{:.4f}", "train loss": "{:.4f}", "cosine": "{:.3f}"},
    **{"MB sent": "{:,.1f}", "samples/s": "{:,.0f}", "seconds": "{:.1f}"},
}


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
    names, out = _names(runs), Path("comparison.html") if out is None else out
    page = Page(
        title=f"{len(runs)} runs compared",
        subtitle=", ".join(str(run.path) for run in runs),
        parts=[
            Box("In short", _sentences(runs, names), "says"),
            *(part(runs, names) for part in (_table, _curves, _alignment)),
        ],
    )
    page.write(out, shared=shared)
    return out


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys of the spec in which the runs differ."""
    specs = [flat(run.spec) for run in runs]
    keys = dict.fromkeys(key for spec in specs for key in spec if key not in _BESIDE)
    return [key for key in keys if len({repr(spec.get(key)) for spec in specs}) > 1]


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of runs: the settings in which they differ, if that tells them apart; else their directories."""
    keys = differences(runs)
    names = [", ".join(f"{key} {flat(run.spec).get(key)}" for key in keys) for run in runs]
    told = len(set(names)) == len(names) and keys and max(map(len, names)) < 60
    return names if told else [run.path.name for run in runs]


def _sentences(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    keys = differences(runs)
    found = [f"They differ in {', '.join(keys)}." if keys else "They have the same settings."]
    done = [(run, name) for run, name in zip(runs, names, strict=True) if run.result.get("test_loss") is not None]
    if len({run.about.get("data_digest") for run in runs}) > 1:
        found.append("They were not trained on the same data, so their figures cannot be compared with each other.")
    elif len(done) > 1:
        found.append(_best(done))
        found += _note_single_seeds(runs, keys)
    sent = [(_bytes_sent(run), name) for run, name in zip(runs, names, strict=True) if _bytes_sent(run)]
    if len(sent) > 1:
        least, most = min(sent), max(sent)
        found.append(
            f"{least[1]} sent the fewest bytes between layers: {least[0] / most[0]:.2f} times those of {most[1]}."
        )
    return found


def _best(done: Sequence[tuple[Run, str]]) -> str:
    """Which run is, or which runs are, the best on the test set."""
    by_accuracy = all(run.result.get("test_accuracy") is not None for run, _ in done)
    key, pick = ("test_accuracy", max) if by_accuracy else ("test_loss", min)
    figure = pick(float(run.result[key]) for run, _ in done)
    names = [name for run, name in done if run.result[key] == figure]
    said = f"{figure:.2%}" if by_accuracy else f"a loss of {figure:.4f}"
    if len(names) > 1:
        return f"Best on the test set, and equal: {'; '.join(names)}: {said}."
    return f"{names[0]} is best on its test set: {said}."


def _note_single_seeds(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """A note where a setting has one seed: what another seed would change is not known."""
    settings = Counter(tuple(repr(flat(run.spec).get(key)) for key in keys if key != "seed") for run in runs)
    if min(settings.values()) > 1:
        return []
    return [
        "Some setting has only one seed: small differences mean nothing, since another seed alone would cause some."
    ]


def _bytes_sent(run: Run) -> int:
    total = run.result.get("bytes", {}).get("total") or {}
    return (total.get("up_payload") or 0) + (total.get("down_payload") or 0) if total.get("up_message") else 0


def _table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    rows = [_row(run, name) for run, name in zip(runs, names, strict=True)]
    heads = [head for head in rows[0] if any(row[head] is not None for row in rows)]
    return Table(columns={head: head for head in heads}, rows=rows, formats=_FORMATS)


def _row(run: Run, name: str) -> dict[str, Any]:
    return {
        "run": name,
        "rule": run.rule,
        "status": str(run.about.get("status", "?")),
        "steps": run.result.get("steps"),
        "test accuracy": run.result.get("test_accuracy"),
        "test loss": run.result.get("test_loss"),
        "train loss": run.result.get("train_loss"),
        "cosine": run.probes[-1]["cosine"] if run.probes else None,
        "MB sent": _bytes_sent(run) / MB or None,
        "samples/s": run.result.get("samples_per_second"),
        "seconds": run.result.get("wall_seconds"),
    }


def _curves(runs: Sequence[Run], names: Sequence[str]) -> Figure:
    """Test figures over steps; training figures for a run without a test set."""
    figure = Figure("curves", "Test loss and accuracy")
    if not any(run.evals or run.steps for run in runs):
        return figure.without("No run has a logged step.")
    hues = [colour(number + 1, len(runs)) for number in range(len(runs))]
    see = "After each evaluation; for a run without a test set the figures of its training batches."
    draw_curves(figure, see, list(zip(names, [run.evals or run.steps for run in runs], hues, strict=True)))
    return figure


def _alignment(runs: Sequence[Run], names: Sequence[str]) -> Figure:
    figure = Figure("alignment", "Alignment with the true gradient")
    if not any(run.probes for run in runs):
        return figure.without("No run has probes (probe.every).")
    figure.panels(["cosine"], "1 is the direction of backpropagation itself, 0 is unrelated to it.")
    for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        if points := [(row["step"], row["cosine"]) for row in thin(run.probes)]:
            figure.line(points, name, colour(number, len(runs)))
    return figure
