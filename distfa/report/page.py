"""The page of a run."""

from __future__ import annotations

from pathlib import Path

from distfa.core.base.model import NO_RULE
from distfa.pages.page import Box, Facts, Page, Table
from distfa.pages.plots import MAX_POINTS, Figure
from distfa.report import facts, findings, law, training
from distfa.report.columns import Row
from distfa.report.records import Run, read_run
from distfa.run.collapse import BEFOREHAND


def write_report(run_dir: Path, out: Path | None = None, *, shared: bool = False) -> Path:
    """Write one HTML page about a run, finished or not; it needs no network.

    Args:
        run_dir: As ``distfa train`` leaves it.
        out: The page; ``run_dir/report.html`` if not given.
        shared: As for ``Page.write``.

    Returns:
        Where the page is.

    Raises:
        RunDirError: It is not a run directory, its metrics are damaged, or the page cannot be written.
    """
    run = read_run(run_dir)
    out = run.path / "report.html" if out is None else out
    page(run).write(out, shared=shared)
    return out


def report_figures(run: Run) -> list[Figure]:
    """Every figure of the report; those that are missing say why."""
    return [*_training(run), *law.law_figures(run)]


def _training(run: Run) -> list[Figure]:
    draw = (training.curves, training.alignment, training.traffic, training.time, training.timeline)
    return [figure(run) for figure in draw]


def page(run: Run) -> Page:
    """The page."""
    return Page(
        title=_title(run),
        subtitle=_subtitle(run),
        parts=[
            Box("In short", findings.sentences(run), "says"),
            *_boxes(run),
            Facts([facts.result_facts(run)], "Outcome"),
            Facts([facts.setting_facts(run)], "Settings"),
            *_per_class(run),
            *_recoveries(run),
            *_training(run),
            Facts([facts.host_facts(run), facts.layer_facts(run)], "Where it ran"),
            *law.law_figures(run),
            *_footer(run),
        ],
    )


def _boxes(run: Run) -> list[Box]:
    """The notices to read first: how the run failed, a broken law, what was left out."""
    found = []
    if error := run.about.get("error"):
        found.append(Box(f"The run {run.about.get('status', 'ended')}", str(error), "box error"))
    if broken := run.result.get("ledger", {}).get("first_violation"):
        found.append(Box("The conservation law was broken", str(broken), "box error"))
    found += [Box(_heading(row), _sentence(row)) for row in run.findings]
    return [*found, Box("Omitted or unfinished", "\n".join(run.notes))] if run.notes else found


def _recoveries(run: Run) -> list[Table]:
    """How often, from where and why the run went back to a checkpoint."""
    columns = {"failed_at": "failed at step", "step": "went on from step", "attempt": "attempt"}
    columns |= {"seconds": "seconds", "cause": "cause"}
    rows = run.about.get("recoveries") or []
    return [Table(head="Recoveries", columns=columns, rows=rows, formats={"seconds": "{:.1f}"})] if rows else []


_HEADINGS = {
    "exploded": "The loss exploded",
    "not finite": "The loss is NaN or infinite",
    "fell back": "The run unlearned what it had learned",
    "constant answer": "The run is no better than a constant answer",
    "chance": "Accuracy fell back to chance",
    "dead": "Layer {layer} is dead",
    "stopped": "Layer {layer} stopped learning",
    "misaligned": "Layer {layer} lost its alignment with the gradient",
    "altered": "Feedback of layer {layer} was altered",
    "condition": "A setting that cannot work well",
    "nothing to learn": "The data have nothing to learn",
}


def _heading(row: Row) -> str:
    kind = str(row.get("finding"))
    return _HEADINGS.get(kind, kind).format(layer=row.get("layer"))


def _sentence(row: Row) -> str:
    when = "" if row.get("finding") in BEFOREHAND else f"Step {row['step']}: "
    said, advice = f"{when}{row.get('text')}. ", str(row.get("advice"))
    return f"{said[0].upper()}{said[1:]}{advice[0].upper()}{advice[1:]}."


def _per_class(run: Run) -> list[Table]:
    """The metrics that have a figure for each class."""
    found = {name: figure for name, figure in (run.result.get("metrics") or {}).items() if isinstance(figure, list)}
    most = max(map(len, found.values()), default=0)
    if not most:
        return []
    names = (run.about.get("inputs") or {}).get("class_names") or list(map(str, range(most)))
    rows = [
        {"class": names[at] if at < len(names) else str(at), **{k: v[at] for k, v in found.items() if at < len(v)}}
        for at in range(most)
    ]
    columns = {"class": "class", **{name: f"test {name}" for name in found}}
    return [Table(columns=columns, rows=rows, formats=dict.fromkeys(found, "{:.4f}"))]


def _footer(run: Run) -> list[str]:
    if max(len(run.steps), len(run.evals), len(run.probes), *map(len, run.boundaries.values()), 0) <= MAX_POINTS:
        return []
    return [f"Lines are drawn from at most {MAX_POINTS:,} points; sums, and marks of a broken law, use all of them."]


def _title(run: Run) -> str:
    """Rule, init, layer sizes, and how it ended."""
    sizes = run.result.get("model") or "-".join(map(str, run.sizes))
    accuracy = run.result.get("test_accuracy")
    end = f"test accuracy {accuracy:.2%}" if accuracy is not None else str(run.about.get("status", "status unknown"))
    how = NO_RULE if len(run.sizes) == 2 else run.init
    return f"{run.rule} ({how}), {sizes}: {end}"


def _subtitle(run: Run) -> str:
    """Engine, data, date, place."""
    started = str(run.about.get("host", {}).get("started", "unknown time")).replace("T", " ").replace("+00:00", " UTC")
    return f"engine {run.engine} · data {run.about.get('data', 'unknown')} · started {started} · {run.path}"
