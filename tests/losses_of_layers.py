"""A layer that is lost, in one process: the serial engine goes back to a checkpoint as Ray's engine does."""

from distfa.errors import LayerLost
from distfa.run import engines, recovery


def lose_a_layer_once(monkeypatch, *, at):
    """The next serial run loses a layer when it reports this step, and recovers."""
    plain, lost = engines.SerialEngine.records, []

    def records(self, tick):
        for record in plain(self, tick):
            yield record
            if getattr(record, "step", -1) == at and not lost:
                lost.append(at)
                raise LayerLost("layer 1: its process died")

    monkeypatch.setattr(engines.SerialEngine, "records", records)
    monkeypatch.setattr(recovery, "most_recoveries", lambda spec: 3)
