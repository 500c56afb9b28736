"""The report says what a run directory holds, says what it lacks, and is drawn by a browser without a network."""

import html
import json
import re
import shutil
import subprocess

import plotly.graph_objects as go
import pytest
from commands import here

from distfa.errors import RunDirError
from distfa.pages.plots import MAX_POINTS, colour, thin
from distfa.report import write_report
from distfa.report.page import report_figures
from distfa.report.records import read_run

FIGURES = ("curves", "alignment", "traffic", "time", "timeline", "law", "drift", "checks", "angle")
STEPS, BOUNDARIES = 30, (1, 2)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def about(**changes):
    rows = [{"boundary": b, "up_payload": 800, "down_payload": 100, "bp_payload": 1600} for b in BOUNDARIES]
    result = {
        **{"engine": "ray", "rule": "fa", "init": "aligned", "epochs": 3, "steps": STEPS},
        **{"train_loss": 0.1, "train_accuracy": 0.98, "test_loss": 0.2, "test_accuracy": 0.9528},
        **{"samples_per_second": 5000.0, "wall_seconds": 8.0, "startup_seconds": 5.0},
        "bytes": {"boundaries": rows},
        "ledger": {"entries": 2 * STEPS, "violations": 0, "first_violation": None},
        "facts": {"layers": [{"layer": l, "busy_seconds": 1.0, "wait_seconds": 2.0} for l in (1, 2, 3)]},
    }
    network = {"layers": [{"input_shape": [i], "output_shape": [o]} for i, o in ((64, 32), (32, 16), (16, 10))]}
    host = {"processor": "<b>Some & Sons</b>", "cpus": 2, "load_average": [1, 2, 3], "command": ["distfa", "train"]}
    return {
        "status": "finished",
        "run_id": "0123abc",
        "network": network,
        "data": "digits",
        "host": host,
        "result": result,
        **changes,
    }


def entry(step, boundary, **changes):
    terms = {
        "discretisation": 1e-3,
        "optimizer": 2e-3,
        "nonhomogeneity": 0.0,
        "staleness": 0.0,
        "transport": 1e-9,
        "residual": 1e-8,
    }
    return {
        **{"kind": "ledger", "step": step, "boundary": boundary, "incoming": 5.0 + step, "potential": 3.0 + step},
        **terms,
        "change": sum(terms.values()),
        **{"tolerance": 1e-6, "transport_tolerance": 1e-7, "angle_degrees": 10.0 + step, "holds": True},
        **changes,
    }


def probe(step):
    layers = [{"layer": l, "cosine": 0.9, "gradient_norm": 1.0, "update_norm": 1.0, "a": 0.5} for l in (1, 2, 3)]
    return {"kind": "probe", "step": step, "cosine": 0.9, "dominance": 0.7, "min_dominance": 0.7, "layers": layers}


def timeline(layer):
    work = [("forward", 0, 0.2), ("backward", 0, 0.1), ("update", None, 0.0)]
    spans = [
        {"operation": name, "step": 20, "micro_batch": m, "start": 100 + i, "end": 100.5 + i, "waited": waited}
        for i, (name, m, waited) in enumerate(work)
    ]
    return {"kind": "timeline", "layer": layer, "spans": spans}


def records(*, every=1, **changes):
    rows = [{"kind": "step", "step": s, "epoch": 0, "loss": 2 / (s + 1), "accuracy": 0.5} for s in range(STEPS)]
    rows += [{"kind": "eval", "step": s, "epoch": 0, "loss": 0.3, "accuracy": 0.9} for s in (9, 19, 29)]
    rows += [entry(s, b, **changes) for s in range(0, STEPS, every) for b in BOUNDARIES]
    return [*rows, *(probe(s) for s in (0, 10, 20)), *(timeline(l) for l in (3, 1, 2))]


def kept(path, rows=None, spec="rule: fa\ninit: aligned\nengine: ray\nledger: {every: 1}\n", tail="", **changes):
    """A run directory."""
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(json.dumps(about(**changes)))
    (path / "spec.yaml").write_text(spec)
    lines = "".join(json.dumps(row) + "\n" for row in (records() if rows is None else rows))
    (path / "metrics.jsonl").write_text(lines + tail)
    return path


def report(path):
    """(page without its scripts, figures by name)."""
    page = write_report(path).read_text()
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S), {f.name: f for f in report_figures(read_run(path))}


def of(rows, kinds):
    return [row for row in rows if row["kind"] in kinds]


def test_a_whole_run_has_every_figure_and_plotly_takes_each_of_them(tmp_path):
    page, found = report(kept(tmp_path / "run"))
    assert tuple(found) == FIGURES
    for figure in found.values():
        assert figure.traces, figure.see
        go.Figure({"data": figure.traces, "layout": figure.layout})  # raises on a property plotly does not have
        assert f'id="plot-{figure.name}"' in page
        assert figure.see in html.unescape(page)
    for text in ("fa (aligned), 64-32-16-10: test accuracy 95.28%", "engine ray", "data digits", "5,000 samples/s"):
        assert text in page


def test_what_train_really_writes_has_every_figure_of_a_one_process_run(tmp_path):
    small = ["--hidden", "24,16", "--epochs", "1", "--set", "data.limit=200", "--engine", "serial", "--rule", "fa"]
    here("train", *small, "--set", "ledger.every=1", "--set", "probe.every=2", "--run-dir", "run", cwd=tmp_path)
    page, found = report(tmp_path / "run")
    assert [name for name, figure in found.items() if not figure.traces] == ["traffic", "time", "timeline"]
    assert "fa (aligned), 64-24-16-10: test accuracy" in page
    assert "No entry broke it" in found["checks"].see


def test_a_timeline_has_a_row_per_layer_and_waiting_comes_before_work(tmp_path):
    _, found = report(kept(tmp_path / "run"))
    bars = {trace["name"]: trace for trace in found["timeline"].traces}
    assert list(bars) == ["waiting", "forward", "backward", "update"]
    assert bars["forward"]["y"] == ["layer 1", "layer 2", "layer 3"]
    assert (bars["waiting"]["base"][0], bars["waiting"]["x"][0]) == (0.0, 200.0)
    assert (bars["forward"]["base"][0], bars["forward"]["x"][0]) == (200.0, 300.0)
    assert bars["backward"]["text"][0] == "backward, step 20, micro-batch 0"


def test_the_page_fetches_nothing_and_takes_no_text_as_markup(tmp_path):
    page, _ = report(kept(tmp_path / "run"))
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)=", page)
    assert "default-src 'none'" in page
    assert "&lt;b&gt;Some &amp; Sons&lt;/b&gt;" in page
    assert "<b>Some" not in page


def test_both_sides_of_the_law_grow_from_zero_and_causes_add_up_to_the_drift(tmp_path):
    _, found = report(kept(tmp_path / "run"))
    growth = [trace for trace in found["law"].traces if trace["xaxis"] == "x"]
    assert [trace["line"]["dash"] for trace in growth] == ["solid", "8px,5px"] * 2
    for trace in growth:
        assert trace["y"] == [float(step) for step in range(STEPS)]
    assert "the optimizer is not plain SGD" in found["law"].see
    per_step = [trace for trace in found["law"].traces if trace["xaxis"] == "x2"]
    assert [trace["name"] for trace in per_step] == [f"{b}: {s}" for b in (1, 2) for s in ("measured", "accounted for")]
    for measured, accounted in zip(per_step[::2], per_step[1::2], strict=True):
        assert accounted["y"] == pytest.approx(measured["y"], abs=2e-8)  # transport and residual
    first, *_ = found["drift"].traces
    assert first["y"][-1] == pytest.approx(STEPS * 1e-3)  # float sums of thirty terms
    assert "whole drift" in found["drift"].see
    assert "Always zero, up to rounding: non-homogeneous activation" in found["drift"].see


def test_rounding_in_the_update_of_plain_sgd_is_not_called_another_optimizer(tmp_path):
    _, found = report(kept(tmp_path / "run", records(optimizer=1e-15)))
    assert "the gap between them is the drift" in found["law"].see
    assert "up to rounding: optimizer, non-homogeneous activation" in found["drift"].see


def test_sums_over_sampled_steps_are_called_so(tmp_path):
    _, found = report(kept(tmp_path / "run", records(every=5)))
    assert "only every 5 steps, so these are sums over 6 sampled steps" in found["drift"].see


def test_a_boundary_has_one_colour_in_every_figure(tmp_path):
    _, found = report(kept(tmp_path / "run"))
    for name in ("law", "drift", "checks", "angle"):
        hues = {trace["line"]["color"] for trace in found[name].traces}
        assert hues == {colour(b, 3) for b in BOUNDARIES}
    assert len({colour(b, 40) for b in range(1, 41)}) == 40


def test_a_broken_law_is_marked_red_and_said_first(tmp_path):
    rows = [*records(), entry(40, 2, residual=1e-3, holds=False)]
    broken = about()["result"] | {"ledger": {"entries": 61, "violations": 1, "first_violation": "boundary 2, step 40"}}
    page, found = report(kept(tmp_path / "run", rows, result=broken))
    (red,) = [trace for trace in found["checks"].traces if trace["name"] == "law broken"]
    assert (red["x"], red["y"]) == ([40], [1e-3])
    assert "broke it, marked red: 1." in found["checks"].see
    assert page.index("boundary 2, step 40") < page.index('id="curves"')


def test_a_lossy_codec_leaves_transport_without_a_tolerance(tmp_path):
    _, found = report(kept(tmp_path / "run", records(transport_tolerance=None, transport=0.3)))
    assert "lossy codec" in found["checks"].see
    assert "No entry broke it" in found["checks"].see


@pytest.mark.parametrize(
    ("left_out", "changes", "absent", "why"),
    [
        ("ledger", {"spec": "rule: drtp\n"}, ("law",), "Rule drtp has no potential, so it has no"),
        ("ledger", {"spec": "rule: fa\nledger: {every: 0}"}, ("law",), "ledger was off"),
        ("probe", {}, ("alignment",), "has no probes"),
    ],
)
def test_what_a_run_lacks_is_left_out_with_the_reason(tmp_path, left_out, changes, absent, why):
    result = about()["result"] | {"rule": None}  # so that the spec's rule is what counts
    rows = [row for row in records() if row["kind"] != left_out]
    page, found = report(kept(tmp_path / "run", rows, result=result, **changes))
    assert tuple(name for name, figure in found.items() if not figure.traces) == absent
    for name in absent:
        assert why in found[name].see
        assert f'id="plot-{name}"' not in page


def test_a_rule_without_a_fixed_matrix_has_no_angle(tmp_path):
    _, found = report(kept(tmp_path / "run", records(angle_degrees=None)))
    assert "no fixed feedback matrix" in found["angle"].see
    assert found["law"].traces


def test_a_one_process_run_sends_no_bytes(tmp_path):
    rows = [{"boundary": 1, "up_payload": 0, "down_payload": 0, "bp_payload": 9}]
    result = about()["result"] | {"engine": "serial", "bytes": {"boundaries": rows}, "facts": {}}
    _, found = report(kept(tmp_path / "run", result=result))
    assert "no bytes were sent" in found["traffic"].see
    assert "does not time its layers" in found["time"].see


def test_a_failed_run_shows_its_error_and_what_it_had_written(tmp_path):
    last = {"2": {"attempt": 1, "error": "layer 2, step 1: <dead>"}}
    layers = [{"layer": l, "node": "10.0.0.7", "pid": 40 + l, "step": 2, "queue": l - 1} for l in (1, 2)]
    rows = [*of(records(), ("step",))[:3], {"kind": "traffic", "step": 2, "seconds": 1.0, "layers": layers}]
    path = kept(tmp_path / "run", rows, status="failed", result=None, error="layer 3: <NaN>", last_errors=last)
    page, found = report(path)
    assert "<dt>layer 1</dt><dd>node 10.0.0.7, pid 41, step 2</dd>" in page
    assert "pid 42, step 2, 1 signal waits; last error, in attempt 1: layer 2, step 1: &lt;dead&gt;" in page
    assert "fa (aligned), 64-32-16-10: failed" in page
    assert "layer 3: &lt;NaN&gt;" in page
    assert [name for name, figure in found.items() if figure.traces] == ["curves"]
    assert found["curves"].traces[0]["mode"] == "lines+markers"  # a run that failed early left a point or two
    kept(path, [], status="failed", result=None, error="lost")
    assert "before its first logged step" in report(path)[0]


def test_a_page_opens_with_the_outcome_and_ends_with_the_law(tmp_path):
    gone = [{"attempt": 2, "failed_at": 12, "step": 10, "seconds": 1.25, "cause": "layer 2 was <killed>"}]
    page, _ = report(kept(tmp_path / "run", recoveries=gone))
    assert "It went back to a checkpoint 1 time and computed 2 steps again." in page
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads[:4] == ["In short", "Outcome", "Settings", "Recoveries"]
    assert heads[-5:] == ["Where it ran", *(figure.title for figure in report_figures(read_run(tmp_path / "run"))[-4:])]
    assert '<td>1.2</td><td class="text">layer 2 was &lt;killed&gt;</td>' in page


@pytest.mark.parametrize("status", ["lost", "failed", "interrupted"])
def test_a_run_that_ended_early_says_how_to_go_on_with_it(tmp_path, status):
    page, _ = report(kept(tmp_path / "run", status=status, result=None))
    assert f"It has no checkpoint, so it begins anew: distfa train --resume {tmp_path / 'run'}" in page


def test_a_loss_has_a_log_axis_unless_a_figure_has_no_logarithm(tmp_path):
    """Plotly's own ticks on one were ``4 5 6 7 8 9 1 2 3``: a tick format makes it write whole numbers."""
    _, found = report(kept(tmp_path / "run"))
    axis = found["curves"].layout["yaxis"]
    assert (axis["type"], axis["tickformat"], axis["nticks"]) == ("log", ".6~g", 3)  # from 2 to 2/30: over a decade
    assert "log scale" in found["curves"].see
    rows = [{"kind": "step", "step": s, "epoch": 0, "loss": loss} for s, loss in enumerate((0.5, 0.4))]
    assert report(kept(tmp_path / "run", rows))[1]["curves"].layout["yaxis"]["nticks"] == 6
    rows[1]["loss"] = 0.0
    assert report(kept(tmp_path / "run", rows))[1]["curves"].layout["yaxis"]["rangemode"] == "tozero"


def test_regression_has_no_accuracy_panel(tmp_path):
    rows = [{"kind": "step", "step": s, "epoch": 0, "loss": 1.0} for s in range(3)]
    result = about()["result"] | {"test_accuracy": None, "train_accuracy": None}
    _, found = report(kept(tmp_path / "run", rows, result=result))
    assert "yaxis2" not in found["curves"].layout


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"kind": "step", "step": 3, "lo', "is not a JSON record"),
        ('{"kind": "step", "step": 3}', "'loss' of the step record is None, not a number"),
        ('{"kind": "step", "step": 3, "loss": NaN}', "is not a JSON record"),
        ('{"kind": "step", "step": 3, "loss": 1e999}', "'loss' of the step record is inf"),
        ('{"kind": "eval", "step": 3, "loss": "0.3"}', "'loss' of the eval record is '0.3'"),
        ('{"kind": "probe", "step": 3, "cosine": 1, "dominance": 1, "min_dominance": 1}', "'layers' of a probe"),
        ("[1, 2]", "a JSON object with a 'kind'"),
        ("", "is not a JSON record"),
    ],
)
def test_a_damaged_metrics_line_is_refused_by_file_and_line_and_leaves_the_old_page(tmp_path, line, why):
    path = kept(tmp_path / "run", of(records(), ("step",))[:2])
    old = write_report(path).read_text()
    with (path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n" + json.dumps(records()[0]) + "\n")
    with pytest.raises(RunDirError, match=rf"metrics\.jsonl, line 3: .*{re.escape(why)}"):
        write_report(path)
    assert (path / "report.html").read_text() == old
    assert sorted(p.name for p in path.iterdir()) == ["metrics.jsonl", "report.html", "run.json", "spec.yaml"]


def test_a_last_line_cut_short_is_left_out_and_said(tmp_path):
    path = kept(tmp_path / "run", of(records(), ("step",)), tail='{"kind": "step", "st')
    page, found = report(path)
    assert f"line {STEPS + 1}) is truncated" in page
    assert len(found["curves"].traces[0]["x"]) == STEPS


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RunDirError, match="is not a run directory"):
        write_report(tmp_path)
    path = kept(tmp_path / "run")
    (path / "metrics.jsonl").unlink()
    with pytest.raises(RunDirError, match=r"cannot read .*metrics\.jsonl"):
        write_report(path)


def test_the_page_goes_where_it_is_told_and_a_place_that_does_not_exist_is_refused(tmp_path):
    path = kept(tmp_path / "run")
    assert write_report(path, tmp_path / "page.html") == tmp_path / "page.html"
    assert not (path / "report.html").exists()
    with pytest.raises(RunDirError, match="cannot write .*choose another location with --out"):
        write_report(path, tmp_path / "nowhere" / "page.html")


def test_a_page_of_thinned_lines_says_so_and_keeps_sums_whole(tmp_path):
    rows = [entry(s, 1) for s in range(MAX_POINTS + 100)]
    page, found = report(kept(tmp_path / "run", rows))
    drift = found["drift"].traces[0]
    assert len(drift["x"]) <= MAX_POINTS
    assert drift["y"][-1] == pytest.approx(len(rows) * 1e-3)  # float sums
    assert "at most 1,500 points" in page
    assert "at most 1,500 points" not in report(kept(tmp_path / "run"))[0]


def test_long_runs_are_thinned_and_keep_their_peaks():
    rows = list(range(100_000))
    rows[54_321] = 10**9
    shown = thin(rows, max)
    assert len(shown) <= MAX_POINTS
    assert shown[0] == 0
    assert 10**9 in shown


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (or google-chrome) on PATH: apt-get install chromium")
@pytest.mark.parametrize("shared", [True, False])
def test_a_browser_draws_every_figure_without_a_network(tmp_path, shared):
    page = write_report(kept(tmp_path / "run"), shared=shared)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    drawn = dict(re.findall(r'<div id="plot-(\w+)"[^>]*class="([^"]*)"', done.stdout))
    assert {name for name, classes in drawn.items() if "js-plotly-plot" in classes} == set(FIGURES)
    parts = re.split(r'<div id="plot-', re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S))[1:]
    lines = r'class="js-line"|class="point"'
    for part in parts:
        assert "main-svg" in part
        assert re.search(lines, part), f"{part[:20]} has axes, but no line, dot or bar"


def test_pages_of_a_folder_can_share_one_plotly(tmp_path):
    for name in ("a", "b"):
        write_report(kept(tmp_path / name), tmp_path / f"{name}.html", shared=True)
    (script,) = tmp_path.glob("plotly-*.min.js")
    for name in ("a", "b"):
        page = (tmp_path / f"{name}.html").read_text()
        assert len(page) < 200_000
        assert re.findall(r'<script src="([^"]*)"', page) == [script.name]
    alone = write_report(tmp_path / "a").read_text()
    assert script.read_text() in alone
    assert "<script src" not in alone


def test_a_network_of_any_modules_says_where_the_law_has_no_other_side(tmp_path):
    """Above every layer but the last hidden one stands a residual block; above that one the readout, a Linear."""
    ours = ["--data", "digits", "--model", "residual_mlp", "--set", "data.limit=64", "--set", "max_steps=3"]
    here("train", "--engine", "serial", "--rule", "fa", *ours, "--run-dir", str(tmp_path / "run"), cwd=tmp_path)
    run = read_run(tmp_path / "run")
    drawn, layers = {figure.name: figure for figure in report_figures(run)}, len(run.sizes) - 1
    boundaries = range(1, layers - 1)
    assert (
        f"No dashed line at boundary {', '.join(map(str, boundaries))}: the layer above is not a single Linear"
        in drawn["law"].see
    )
    assert {name for t in drawn["law"].traces if (name := t["name"]).endswith(("incoming", "potential"))} == {
        *(f"{boundary}: incoming" for boundary in boundaries),
        f"{layers - 1}: incoming",
        f"{layers - 1}: potential",
    }
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert f"residual_mlp in {layers} layers: test accuracy" in page
