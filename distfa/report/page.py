"""The page of a run."""

from __future__ import annotations

from pathlib import Path

from distfa.pages.page import Box, Facts, Page
from distfa.pages.plots import MAX_POINTS, Figure
from distfa.report import facts, findings, law, training
from distfa.report.columns import Row
from distfa.report.records import Run, read_run
from distfa.report.timeline import timeline
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
    return [
        training.curves(run),
        *law.law_figures(run),
        training.alignment(run),
        training.traffic(run),
        training.time(run),
        timeline(run),
    ]


def page(run: Run) -> Page:
    """The page."""
    return Page(
        title=facts.title(run),
        subtitle=facts.subtitle(run),
        parts=[
            Box("In short", findings.sentences(run), "says"),
            *_boxes(run),
            Facts([facts.result_facts(run), facts.host_facts(run), facts.layer_facts(run)]),
            *report_figures(run),
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


def _footer(run: Run) -> list[str]:
    if max(len(run.steps), len(run.evals), len(run.probes), *map(len, run.boundaries.values()), 0) <= MAX_POINTS:
        return []
    return [f"Lines are drawn from at most {MAX_POINTS:,} points; sums, and marks of a broken law, use all of them."]
