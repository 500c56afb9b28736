"""Prometheus gets the figures that an alert needs, and the example rules and dashboard ask for nothing else."""

import http.client
import json
import re
import shutil
import subprocess
import threading
from http.server import HTTPServer

import pytest
from queries import FOLDER, expressions, queried

from distfa.cli.metrics import _Exporter
from distfa.errors import RunDirError
from distfa.report.latest import Latest
from distfa.report.prometheus import METRIC_NAMES, exposition, find_runs

PROMTOOL = shutil.which("promtool")
LAYERS = [{"input_shape": [4], "output_shape": [4]}] * 3
TERMS = ("incoming", "change", "discretisation", "optimizer", "nonhomogeneity", "staleness", "transport", "residual")
ENTRY = {"kind": "ledger", "step": 7, "boundary": 1, **dict.fromkeys((*TERMS, "tolerance"), 0.0)}
PROBED = {"step": 7, "cosine": 0.5, "dominance": 0.25, "min_dominance": 0.2}
SENT = {"boundary": 1, "up_message": 300, "down_message": 100, "bp_payload": 800}
RECORDS = [
    {"kind": "step", "step": 7, "epoch": 0, "loss": "NaN", "accuracy": 0.5, "samples_per_second": 1000.0},
    {"kind": "eval", "step": 7, "epoch": 0, "loss": 0.25, "accuracy": 0.75},
    {"kind": "probe", **PROBED, "layers": [{"layer": 1, "cosine": 0.125, "a": 1.0}]},
    ENTRY | {"holds": True},
    ENTRY | {"holds": False},
    {"kind": "traffic", "step": 7, "seconds": 1.0, "boundaries": [SENT], "layers": []},
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / 'a "run"'
    folder.mkdir()
    about = {"status": "failed", "run_id": "0123", "network": {"layers": LAYERS}, "checkpoint_time": 1000.5}
    (folder / "run.json").write_text(json.dumps(about | {"recoveries": [{}, {}]}))
    (folder / "spec.yaml").write_text("rule: fa\nengine: ray\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RECORDS))
    return folder


def values(text):
    """Figures by metric and labels other than the run's."""
    found = re.findall(r'^(\w+)\{run="0123",folder="a \\"run\\""(?:,(.*))?\} (\S+)$', text, flags=re.M)
    return {(name.removeprefix("distfa_"), labels): value for name, labels, value in found}


def test_every_figure_that_an_alert_needs_is_exported(run):
    found = values(exposition([Latest(run)]))
    assert found.pop(("last_record_timestamp_seconds", "")) == repr((run / "metrics.jsonl").stat().st_mtime)
    assert found == {
        ("run_info", 'rule="fa",engine="ray",status="failed"'): "1.0",
        ("recoveries", ""): "2.0",
        ("last_checkpoint_timestamp_seconds", ""): "1000.5",
        ("step", ""): "7.0",
        ("samples_per_second", ""): "1000.0",
        ("loss", 'of="train"'): "NaN",
        ("accuracy", 'of="train"'): "0.5",
        ("loss", 'of="test"'): "0.25",
        ("accuracy", 'of="test"'): "0.75",
        ("alignment", ""): "0.5",
        ("dominance", ""): "0.25",
        ("layer_alignment", 'layer="1"'): "0.125",
        ("ledger_entries", 'boundary="1"'): "2.0",
        ("ledger_violations", 'boundary="1"'): "1.0",
        ("boundary_bytes", 'boundary="1",direction="up"'): "300.0",
        ("boundary_bytes", 'boundary="1",direction="down"'): "100.0",
        ("boundary_bp_bytes", 'boundary="1"'): "800.0",
    }


def test_rules_and_dashboard_ask_for_what_there_is_and_leave_only_the_count_of_entries_out():
    assert queried("distfa_") == set(METRIC_NAMES) - {"distfa_ledger_entries"}


def test_a_folder_gives_the_runs_in_it_and_another_path_is_refused(run):
    assert find_runs([run.parent]) == find_runs([run]) == [run]
    with pytest.raises(RunDirError, match="nowhere is neither a run directory nor a folder"):
        find_runs([run / "nowhere"])


def test_they_are_served_over_http_and_a_run_that_cannot_be_read_is_said(run):
    server = HTTPServer(("127.0.0.1", 0), _Exporter([run.parent]).handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def get():
        link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        link.request("GET", "/metrics")
        answer = link.getresponse()
        return answer.status, answer.read().decode()

    try:
        assert get() == (200, exposition([Latest(run)]))
        (run / "metrics.jsonl").unlink()
        assert get()[0] == 503
        shutil.rmtree(run)
        assert get() == (200, "")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool on PATH: apt-get install prometheus")
def test_prometheus_own_tool_takes_rules_configuration_queries_and_metrics(run, tmp_path):
    for what, file in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        subprocess.run([PROMTOOL, "check", what, FOLDER / file], check=True, capture_output=True)
    rules = [{"record": f"q{number}", "expr": text} for number, text in enumerate(expressions())]
    (tmp_path / "queries.json").write_text(json.dumps({"groups": [{"name": "q", "rules": rules}]}))
    subprocess.run([PROMTOOL, "check", "rules", tmp_path / "queries.json"], check=True, capture_output=True)
    text = exposition([Latest(run)]).encode()
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
