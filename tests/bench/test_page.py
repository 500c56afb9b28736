"""A benchmark's page has its table, its figures and its notes, and says what it lacks."""

import html
import re

import plotly.graph_objects as go
import pytest

from distfa.bench.outcome import Outcome
from distfa.bench.page import outcome_figures, write_bench_report
from distfa.errors import BenchError, RunDirError


def curve(*accuracy):
    steps = list(range(1, len(accuracy) + 1))
    return {"steps": steps, "payload_bytes": [10**6 * s for s in steps], "accuracy": list(accuracy), "reached": True}


OUTCOMES = {
    "speed": {
        "columns": {"configuration": "configuration", "micro_batches": "M", "samples_per_second": "samples/s"},
        "rows": [
            {"configuration": name, "micro_batches": 4, "samples_per_second": rate, "least": rate - 5, "most": rate + 9}
            for name, rate in (("distfa dfa, sync", 50.0), ("torch <gpipe>", 1234.5))
        ],
        "settings": {"rounds": 5},
    },
    "scale": {
        "columns": {"layers": "layers", "micro_batches": "M", "overhead_ms": "overhead, ms"},
        "rows": [{"layers": l, "micro_batches": m, "overhead_ms": 0.1 * m} for m in (1, 4) for l in (2, 4, 8)],
        "settings": {},
    },
    "comm": {
        "columns": {"name": "configuration", "codec": "codecs", "seconds": "s to target"},
        "rows": [
            {"name": "torch", "codec": "lossless/lossless", "seconds": 9.0},
            {"name": "weight transport, computed", "codec": "lossless/lossless"},
            {"name": "distfa dfa", "codec": "int8/int8", "seconds": 4.0},
        ],
        "raw": [
            {"name": "torch", "codec": "lossless/lossless", "boundaries": [], "curve": curve(0.5, 0.9)},
            {"name": "distfa dfa", "codec": "int8/int8", "curve": curve(0.6, 0.9), "curves": [curve(0.6, 0.9)]},
        ],
        "settings": {"target": 0.9, "megabits_per_second": 200.0},
    },
    "rules": {
        "columns": {"rule": "rule", "init": "init", "test_accuracy": "test accuracy, %"},
        "rows": [
            {"rule": "bp", "init": "any", "test_accuracy": 98.0, "alignment": 1.0, "spread": 0.2},
            {"rule": "fa", "init": "random"},
        ],
        "settings": {"seeds": 2},
    },
}


def saved(path, name, **changes):
    outcome = Outcome(**{"name": name, "notes": ["<i>mind this</i>"], **OUTCOMES[name], **changes})
    outcome.save(path)
    return outcome


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_benchmark_has_figures_that_plotly_takes_and_its_table(tmp_path, name):
    outcome = saved(tmp_path / "bench.json", name)
    page = write_bench_report(tmp_path / "bench.json")
    assert page == tmp_path / "bench.html"
    text = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.S)
    assert "&lt;i&gt;mind this&lt;/i&gt;" in text
    for figure in outcome_figures(outcome):
        assert figure.traces, figure.see
        go.Figure({"data": figure.traces, "layout": figure.layout})  # raises on a property plotly does not have
        assert f'id="plot-{figure.name}"' in text
    for heading in outcome.columns.values():
        assert f">{html.escape(heading)}</th>" in text
    assert text.count("<tr>") == 1 + len(outcome.rows)


def test_figures_show_the_rows_that_have_the_figure():
    drawn = {name: outcome_figures(Outcome(name=name, **raw)) for name, raw in OUTCOMES.items()}
    (speed,) = drawn["speed"]
    assert speed.traces[0]["x"] == [50.0, 1234.5]
    assert speed.traces[0]["error_x"]["array"] == [9.0, 9.0]
    assert [trace["x"] for trace in drawn["scale"][0].traces] == [[2, 4, 8]] * 2
    accuracy, reach = drawn["comm"]
    assert [(trace["name"], trace["x"]) for trace in accuracy.traces] == [("dfa, int8/int8", [1.0, 2.0])]
    assert reach.traces[0]["y"] == ["torch, lossless/lossless", "distfa dfa, int8/int8"]
    assert [trace["y"] for trace in drawn["rules"][0].traces] == [[98.0], [1.0]]


def test_a_figure_that_cannot_be_drawn_says_so(tmp_path):
    rows = [{"name": "distfa bp", "codec": "lossless/lossless"}]
    outcome = saved(tmp_path / "bench.json", "comm", rows=rows, settings={"target": 0.9, "megabits_per_second": None})
    assert "No run to the target was timed over links" in outcome_figures(outcome)[1].see
    assert "No run to the target was timed over links" in write_bench_report(tmp_path / "bench.json").read_text()


def test_a_benchmark_without_a_figure_of_its_own_is_a_table(tmp_path):
    Outcome(name="books", settings={}, columns={"a": "first"}, rows=[{"a": 1}]).save(tmp_path / "b.json")
    assert ">first</th>" in write_bench_report(tmp_path / "b.json", tmp_path / "page.html").read_text()


def test_files_that_are_none_and_places_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "speed"}')
    with pytest.raises(BenchError, match=r"x\.json is not a result of distfa bench"):
        write_bench_report(tmp_path / "x.json")
    saved(tmp_path / "old.json", "speed", rows=[{"samples_per_second": 1.0}])
    with pytest.raises(BenchError, match="not a result of this version of distfa bench speed: KeyError"):
        write_bench_report(tmp_path / "old.json")
    saved(tmp_path / "bench.json", "rules")
    with pytest.raises(RunDirError, match="choose another location with --out"):
        write_bench_report(tmp_path / "bench.json", tmp_path / "nowhere" / "page.html")
