"""A layer's gauges for Prometheus, through Ray's own metrics: its step, its time, its queue, its bytes.

Ray exports them on every node's metrics port if the packages of its dashboard are installed (``pip install
"ray[default]"``). It puts its name before theirs: ``ray_distfa_step``. Without these packages nothing is exported;
training is the same.
"""

from __future__ import annotations

from ray.util.metrics import Gauge

from distfa.runtime.worker import LayerStatus

_TAGS = ("run", "attempt", "layer", "worker")


class LayerGauges:
    """The gauges of one layer.

    Args:
        run_id: The id that messages carry: that of the run, and the number of the attempt.
        layer: Which layer.
        worker: The worker that hosts it.
    """

    def __init__(self, run_id: str, layer: int, worker: int) -> None:
        run, _, attempt = run_id.rpartition("-")
        tags = dict(zip(_TAGS, (run, attempt, str(layer), str(worker)), strict=True))

        def gauge(name: str, description: str) -> Gauge:
            made = Gauge(f"distfa_{name}", description=description, tag_keys=_TAGS)
            made.set_default_tags(tags)
            return made

        self._step = gauge("step", "The step the layer is working on, counted from 0.")
        self._busy = gauge("busy_seconds", "Time the layer has spent on anything but waiting, in this attempt.")
        self._wait = gauge("wait_seconds", "Time the layer has waited for others, in this attempt.")
        self._queue = gauge("queue", "Signals that have arrived at the layer and are waiting.")
        self._sent = gauge("sent_bytes", "Bytes of all messages the layer has sent, in this attempt.")

    def show(self, status: LayerStatus) -> None:
        """Set the gauges to what the layer reports."""
        self._step.set(status.step)
        self._busy.set(status.busy_seconds)
        self._wait.set(status.wait_seconds)
        self._queue.set(status.queue)
        self._sent.set(sum(counted.message_bytes for counted in status.traffic.values()))
