"""The page of a report: self-contained, and written whole or not at all."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs, get_plotlyjs_version  # type: ignore[import-untyped]

from distfa.errors import RunDirError
from distfa.files import write_whole
from distfa.pages.plots import INK, MAX_POINTS, Figure
from distfa.report import facts, findings, law, training
from distfa.report.record import Row
from distfa.report.records import Run, read_run
from distfa.report.timeline import timeline
from distfa.run.collapse import BEFOREHAND

# Nothing may be fetched except a plotly file beside the page. Its "download as PNG" needs data and blob images.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'self' file:; style-src 'unsafe-inline'; img-src data: blob:"
_PLOTLY = "<script>plotly</script>"  # where plotly goes, or a link to it
_STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #fff; --ink: #1f2933; --soft: #52606d; --edge: #e4e7eb;
  --dim: #7b8794; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --card: #1d232a; --ink: #e4e8ec; --soft: #a9b4be;
  --edge: #37414b; --dim: #94a0ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0; }
p { margin: 4px 0 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 18px 20px 10px; }
main { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 16px; }
main > * { grid-column: span 2; } #traffic, #time { grid-column: span 1; }
@media (max-width: 900px) { #traffic, #time { grid-column: span 2; } }
.absent, .facts, .box { padding-bottom: 18px; }
.absent h2 { color: var(--dim); }
.box { border-left: 5px solid #E69F00; } .error { border-left-color: #d1001f; }
.box p { color: var(--ink); white-space: pre-wrap; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 4px 40px; }
dl { display: grid; grid-template-columns: 150px 1fr; gap: 3px 12px; margin: 0; align-content: start; }
.js-plotly-plot .modebar { opacity: 0; background: var(--card); transition: opacity 0.2s; }
.js-plotly-plot:hover .modebar, .js-plotly-plot:focus-within .modebar { opacity: 1; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.table { overflow-x: auto; padding-bottom: 18px; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { padding: 4px 7px; text-align: right; vertical-align: bottom; border-bottom: 1px solid var(--edge); }
th { color: var(--dim); font-weight: 600; } .text { text-align: left; } td { white-space: nowrap; }
.says { padding-bottom: 18px; } .says ul { margin: 6px 0 0; padding-left: 20px; } .says li { margin: 3px 0; }
@media (max-width: 620px) { main { padding: 16px 10px 40px; gap: 10px; } section { padding: 14px 12px 8px; }
  h1 { font-size: 21px; } dl { grid-template-columns: 104px 1fr; } }
"""
_DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)"), css = name => getComputedStyle(document.documentElement)
  .getPropertyValue(name).trim();
const config = {responsive: true, displaylogo: false, displayModeBar: true,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]]};
function stacked(layout) {  // one panel below the other, where two side by side cannot be read
  const axes = Object.keys(layout).filter(key => /^yaxis/.test(key)), n = axes.length;
  if (n < 2) return;
  const gap = 0.28 / n, height = (1 - gap * (n - 1)) / n;
  axes.forEach((key, k) => {
    const top = 1 - k * (height + gap), x = key.replace("y", "x");
    layout[key] = {...layout[key], domain: [Math.max(0, top - height), top]};
    layout[x] = {...layout[x], domain: [0, 1], title: {text: (layout.xaxis.title || {}).text || ""}};
    if (layout.annotations && layout.annotations[k])
      layout.annotations[k] = {...layout.annotations[k], x: 0, y: top};
  });
  layout.height = 110 + 290 * n;
}
function draw() {
  const ink = css("--ink"), card = css("--card"), line = css("--edge"), narrow = innerWidth < 700;
  const style = {
    font: {family: 'system-ui, "Segoe UI", Roboto, sans-serif', size: 12.5, color: ink},
    margin: {l: narrow ? 48 : 64, r: 16, t: 62, b: 48}, paper_bgcolor: card, plot_bgcolor: card, hovermode: "closest",
    legend: {orientation: "h", traceorder: "normal", x: 0, xanchor: "left", y: 1, yref: "container", yanchor: "top"}};
  const axis = {gridcolor: line, zerolinecolor: css("--dim"), linecolor: css("--dim"), automargin: true};
  for (const [name, plain] of Object.entries(FIGURES)) {
    const figure = JSON.parse(JSON.stringify(plain).replaceAll(INK, ink));
    const place = document.getElementById("plot-" + name), layout = {...style, ...figure.layout};
    if (narrow) stacked(layout);
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) {
      layout[key] = {...axis, ...layout[key]};
      layout[key].title = {font: {size: 12.5, color: css("--dim")}, standoff: 8, ...layout[key].title};
    }
    // a legend of many boundaries takes more rows
    const shown = figure.traces.filter(trace => trace.showlegend !== false).length;
    const more = 20 * Math.floor((shown - 1) / (narrow ? 2 : 5));
    layout.height += more;
    layout.margin = {...style.margin, t: style.margin.t + more};
    place.style.height = layout.height + "px";
    Plotly.react(place, figure.traces, layout, config);
  }
}
draw();
dark.addEventListener("change", draw);
matchMedia("(max-width: 700px)").addEventListener("change", draw);
"""


def write_report(run_dir: Path, out: Path | None = None, *, shared: bool = False) -> Path:
    """Write one HTML page about a run, finished or not; it needs no network.

    Args:
        run_dir: As ``distfa train`` leaves it.
        out: The page; ``run_dir/report.html`` if not given.
        shared: As for ``write_page``.

    Returns:
        Where the page is.

    Raises:
        RunDirError: It is not a run directory, its metrics are damaged, or the page cannot be written.
    """
    run = read_run(run_dir)
    out = run.path / "report.html" if out is None else out
    write_page(out, render(run, figures(run)), shared=shared)
    return out


def figures(run: Run) -> list[Figure]:
    """Every figure of the report; those that are missing say why."""
    return [
        training.curves(run),
        *law.law_figures(run),
        training.alignment(run),
        training.traffic(run),
        training.time(run),
        timeline(run),
    ]


def render(run: Run, drawn: list[Figure]) -> str:
    """The page."""
    return document(
        facts.title(run),
        facts.subtitle(run),
        [
            says(findings.sentences(run)),
            *_boxes(run),
            '<section class="facts">',
            *map(definitions, filter(None, (facts.result_facts(run), facts.host_facts(run), facts.layer_facts(run)))),
            "</section>",
            *map(section, drawn),
            *_footer(run),
        ],
        drawn,
    )


def document(title: str, subtitle: str, body: list[str], drawn: list[Figure]) -> str:
    """A self-contained page.

    Args:
        title: Plain text, as ``subtitle``.
        subtitle: Plain text below the title.
        body: HTML of the parts of the page.
        drawn: The figures for which ``section`` made a place in ``body``.
    """
    title = html.escape(title)
    data = {figure.name: {"traces": figure.traces, "layout": figure.layout} for figure in drawn if figure.traces}
    script = f"const INK = {_json(INK)};\nconst FIGURES = {_json(data)};{_DRAW}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><main>",
            f"<header><h1>{title}</h1><p>{html.escape(subtitle)}</p></header>",
            *body,
            f"</main>{_PLOTLY}<script>{script}</script></body></html>",
        ]
    )


def _boxes(run: Run) -> list[str]:
    """Boxes with what a reader must know first: how the run failed, a broken law, what was left out."""
    found = (
        [(f"The run {run.about.get('status', 'ended')}", run.about["error"], " error")]
        if run.about.get("error")
        else []
    )
    if broken := run.result.get("ledger", {}).get("first_violation"):
        found.append(("The conservation law was broken", broken, " error"))
    found += [(_heading(row), _sentence(row), "") for row in run.findings]
    if run.notes:
        found.append(("Left out or unfinished", "\n".join(run.notes), ""))
    return [box(head, str(text), kind) for head, text, kind in found]


_HEADINGS = {
    "exploded": "The loss exploded",
    "not finite": "The loss is no longer a number",
    "fell back": "The run unlearned what it had learned",
    "constant answer": "The run is no better than a constant answer",
    "chance": "Accuracy fell back to chance",
    "dead": "Layer {layer} is dead",
    "stopped": "Layer {layer} stopped learning",
    "misaligned": "Layer {layer} lost the gradient's direction",
    "altered": "Feedback of layer {layer} was altered",
    "condition": "A setting that cannot go well",
    "nothing to learn": "The data have nothing to tell apart",
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
    return [
        f"<p>Lines are drawn from at most {MAX_POINTS:,} points; sums and marks of a broken law leave nothing out.</p>"
    ]


def box(head: str, text: str, kind: str = "") -> str:
    """A box that must be read first; ``kind`` is `` error`` or empty."""
    return f'<section class="box{kind}"><h2>{html.escape(head)}</h2><p>{html.escape(text)}</p></section>'


def says(sentences: list[str]) -> str:
    """The findings of a run or of a comparison, one sentence each."""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="says"><h2>In short</h2><ul>{items}</ul></section>'


def definitions(rows: dict[str, str]) -> str:
    """A list of names with their values."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items()) + "</dl>"


def section(figure: Figure) -> str:
    """A figure's heading, its sentence, and the place where it is drawn."""
    head = f"<h2>{html.escape(figure.title)}</h2><p>{html.escape(figure.see)}</p>"
    if not figure.traces:
        return f'<section class="absent" id="{figure.name}">{head}</section>'
    height = int(figure.layout["height"])
    return f'<section id="{figure.name}">{head}<div id="plot-{figure.name}" style="height:{height}px"></div></section>'


def _json(value: Any) -> str:
    """JSON that cannot end the script element that it is in."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The numbers with gaps for NaN and infinity, which sums of large terms can be."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(out: Path, text: str, *, shared: bool = False) -> None:
    """Write a page, whole or not at all.

    Args:
        out: The file to write.
        text: The page that ``document`` made.
        shared: Whether plotly's 4.8 MB are in a file beside the page, which all pages of a folder share, instead of in
            the page.

    Raises:
        RunDirError: It cannot be written.
    """
    beside = out.with_name(f"plotly-{get_plotlyjs_version()}.min.js")
    try:
        if shared and not beside.exists():
            write_whole(beside, get_plotlyjs())
        script = f'<script src="{beside.name}"></script>' if shared else f"<script>{get_plotlyjs()}</script>"
        write_whole(out, text.replace(_PLOTLY, script))
    except OSError as exc:
        raise RunDirError(f"cannot write {out}: {exc.strerror or exc}; name another place with --out") from exc
