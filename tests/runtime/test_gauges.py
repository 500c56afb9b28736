"""What Prometheus sees of a layer; Ray exports it where its own packages for that are installed."""

from queries import queried
from ray.util.metrics import Gauge
from runs import ThreadRun, recipe

from distfa.runtime.ray.gauges import LayerGauges


def test_every_gauge_takes_what_the_layer_says_of_itself(monkeypatch):
    seen = {}
    monkeypatch.setattr(Gauge, "set", lambda self, value: seen.update({self.info["name"]: (value, self)}))
    r = recipe(rule="dfa")
    with ThreadRun(r, transport="loopback") as run:
        run.train()
        status = run.handles[0].hosted.status().layers[0]
    LayerGauges("0123abc-2", 1, 3).show(status)
    sent = sum(counted.message_bytes for counted in status.traffic.values())
    assert sent > 0
    assert {name: value for name, (value, _) in seen.items()} == {
        "distfa_step": status.step,
        "distfa_busy_seconds": status.busy_seconds,
        "distfa_wait_seconds": status.wait_seconds,
        "distfa_queue": 0,
        "distfa_sent_bytes": sent,
    }
    assert queried("ray_distfa_") <= {f"ray_{name}" for name in seen}
    for _, gauge in seen.values():
        assert gauge.info["default_tags"] == {"run": "0123abc", "attempt": "2", "layer": "1", "worker": "3"}
        assert gauge.info["description"]
