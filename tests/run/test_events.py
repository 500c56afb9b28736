"""What TensorBoard is given is what it reads: curves, histograms, the layers' graph and the table of runs."""

import json

import pytest
from runs import recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from distfa import data
from distfa.core import rules
from distfa.core.base.recipe import Recipe
from distfa.core.books.probe import BINS
from distfa.intake.subject import subject_for
from distfa.run.disk.events import layer_graph
from distfa.run.run import run
from distfa.settings import parse_spec


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(what TensorBoard reads, the records of the run)."""
    where = tmp_path_factory.mktemp("runs") / "run"
    wanted = {"engine": "serial", "rule": "fa", "epochs": 2, "batch_size": 50, "run_dir": str(where), "init": "random"}
    spec = parse_spec(wanted | {"data": {"limit": 200}, "model": {"hidden": [24, 16]}, "probe": {"every": 3}})
    dataset = data.load("digits", limit=200)
    run(spec, subject_for(spec, dataset).network, dataset)
    events = EventAccumulator(str(where), size_guidance={"histograms": 0, "scalars": 0}).Reload()
    return events, [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]


def test_histograms_count_each_neuron_once_and_agree_with_the_probes(found):
    events, records = found
    probes = [row for row in records if row["kind"] == "probe"]
    assert len(probes) == 3
    for layer, neurons in ((1, 24), (2, 16), (3, 10)):
        shown = events.Histograms(f"alignment of neurons/{layer}")
        assert [one.step for one in shown] == [row["step"] for row in probes]
        for one, row in zip(shown, probes, strict=True):
            counts = row["layers"][layer - 1]["neurons"]
            assert len(counts) == BINS
            assert one.histogram_value.bucket == counts
            assert 0 < sum(counts) <= neurons
    output = probes[0]["layers"][2]["neurons"]
    assert output == [0] * (BINS - 1) + [10]  # the output's error is exact, so each of its neurons follows the gradient


def test_the_table_of_runs_has_the_settings_the_figures_and_how_it_ended(found):
    events, _ = found
    about = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent("hparams")}
    settings = metadata.parse_session_start_info_plugin_data(about[metadata.SESSION_START_INFO_TAG]).hparams
    assert settings["rule"].string_value == "fa"
    assert settings["batch_size"].number_value == 50
    assert settings["optimizer.lr"].number_value > 0
    assert not [key for key in settings if key.startswith(("run_dir", "ray.", "wire."))]
    experiment = metadata.parse_experiment_plugin_data(about[metadata.EXPERIMENT_TAG])
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert "test/accuracy" in metrics
    assert set(metrics) <= set(events.Tags()["scalars"])
    assert {info.name for info in experiment.hparam_infos} == set(settings)
    end = metadata.parse_session_end_info_plugin_data(about[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.STATUS_SUCCESS


def test_the_graph_has_the_layers_and_the_ways_of_the_signals(found):
    events, _ = found
    nodes = {node.name: list(node.input) for node in events.Graph().node}
    assert nodes["layer_2/forward"] == ["layer_1/forward"]
    assert nodes["loss"] == ["layer_3/forward", "labels"]
    assert nodes["layer_1/update"] == ["layer_2/update", "layer_1/forward"]


@pytest.mark.parametrize(
    ("rule", "teachers"),
    [("bp", ["layer_2/update", "layer_3/update"]), ("dfa", ["loss", "loss"]), ("drtp", ["labels", "labels"])],
)
def test_errors_come_from_where_the_rule_gets_them(rule, teachers):
    made: Recipe = recipe(rule=rule)
    nodes = {node.name: list(node.input) for node in layer_graph(rules.build_rule(made)).node}
    assert [nodes[f"layer_{l}/update"][0] for l in (1, 2)] == teachers
    top = len(made.network)
    assert nodes[f"layer_{top}/update"] == ["loss", f"layer_{top}/forward"]
