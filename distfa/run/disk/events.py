"""Events for TensorBoard: curves, alignment of individual neurons, the graph of the layers, the settings.

The graph has two nodes for a layer: its forward, and its update, which takes its error from where the rule gets it. The
settings make a table in which runs can be compared (the tab HPARAMS).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distfa.core.rules.base import Rule
from distfa.settings import RunSpec, flat

_BESIDE = ("run_dir", "log_every", "ray", "wire", "checkpoint")  # keys that do not decide what is learned
_METRICS = ("test/accuracy", "test/loss", "train/loss", "train/samples_per_second", "alignment/global")


log = logging.getLogger(__name__)


class Events:
    """The event file of a run, made when there is something to write.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._from = path, 0
        self._writer: Any = None
        self._lost = False
        self._about: tuple[Rule, RunSpec] | None = None

    def describe(self, rule: Rule, spec: RunSpec) -> None:
        """Write what the file begins with: the graph of the layers and the settings."""
        self._about = rule, spec

    def add(
        self, step: int, values: Mapping[str, float], cosines: Mapping[str, Sequence[int]] = MappingProxyType({})
    ) -> None:
        """Add a point to curves, and histograms.

        Args:
            step: The step of these points.
            values: The values, by the names of the curves.
            cosines: Histograms by name: how many cosines are in each of the equal parts of -1 to 1.

        If the file cannot be written, only this file ends, with a warning; the run continues. metrics.jsonl has the
            figures too.
        """
        if self._lost:
            return
        try:
            self._add(step, values, cosines)
        except OSError as exc:
            self._lost = True
            log.warning("writing no more events for TensorBoard: %s; the figures are in metrics.jsonl", exc.strerror)

    def _add(self, step: int, values: Mapping[str, float], cosines: Mapping[str, Sequence[int]]) -> None:
        writer = self._open()
        for name, value in values.items():
            if math.isfinite(value):  # the rest is a gap in a curve
                writer.add_scalar(name, value, step)
        for name, counts in cosines.items():
            _histogram(writer, name, counts, step)

    def go_back(self, step: int) -> None:
        """Say that what comes next replaces everything from ``step`` on."""
        self.close()
        self._from = step

    def close(self, *, finished: bool | None = None) -> None:
        """Write what has not been written yet; if the disk is full, the figures are in metrics.jsonl only.

        Args:
            finished: How the run ended; None if it continues.
        """
        if self._writer is None:
            return
        with contextlib.suppress(OSError):
            if finished is not None and self._about is not None:
                self._writer.file_writer.add_summary(_end(finished=finished))
            self._writer.close()
        self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            from tensorboard.compat.proto.event_pb2 import Event
            from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, so only when used

            self._writer = SummaryWriter(str(self._path), flush_secs=5, purge_step=self._from or None)
            # its thread would print a traceback of an error that add raises as well
            with contextlib.suppress(AttributeError):
                self._writer.file_writer.event_writer._async_writer._worker._invoke_excepthook = lambda *_: None
            if self._about is not None and not self._from:
                rule, spec = self._about
                graph = layer_graph(rule).SerializeToString()
                self._writer.file_writer.add_event(Event(graph_def=graph))
                for summary in _settings(spec):
                    self._writer.file_writer.add_summary(summary)
        return self._writer


def _histogram(writer: Any, name: str, counts: Sequence[int], step: int) -> None:
    width = 2 / len(counts)
    limits = [width * (k + 1) - 1 for k in range(len(counts))]
    sums = [sum(n * (limit - width / 2) ** power for n, limit in zip(counts, limits, strict=True)) for power in (1, 2)]
    about = {"min": -1.0, "max": 1.0, "num": sum(counts), "sum": sums[0], "sum_squares": sums[1]}
    writer.add_histogram_raw(name, **about, bucket_limits=limits, bucket_counts=list(counts), global_step=step)


def layer_graph(rule: Rule) -> Any:
    """A GraphDef: samples go up through the forwards, errors go down to the updates as the rule sends them."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from torch.utils.tensorboard._proto_graph import node_proto

    network, top = rule.network, len(rule.network)
    nodes = [node_proto("samples", "samples", outputsize=(-1, *network[1].input_shape)), node_proto("labels", "labels")]
    for l in range(1, top + 1):
        layer, below = network[l], "samples" if l == 1 else f"layer_{l - 1}/forward"
        modules = ", ".join(kind for _, kind in layer.modules)
        about = f"parameters: {layer.parameters:,}"
        shape = (-1, *layer.output_shape)  # -1: as many samples as there are
        nodes.append(node_proto(f"layer_{l}/forward", modules, [below], outputsize=shape, attributes=about))
    nodes.append(node_proto("loss", rule.recipe.loss, [f"layer_{top}/forward", "labels"]))
    for l in range(top, 0, -1):
        sends = l > 1 and rule.origin(l - 1) == l and not rule.is_direct
        sent = (-1, *rule.shape(l - 1)) if sends else None
        inputs, about = [_teacher(rule, l), f"layer_{l}/forward"], f"trained: {network[l].trainable:,}"
        nodes.append(node_proto(f"layer_{l}/update", rule.recipe.rule, inputs, outputsize=sent, attributes=about))
    return GraphDef(node=nodes)


def _teacher(rule: Rule, layer: int) -> str:
    """Where a layer's error comes from."""
    if layer == len(rule.network):
        return "loss"
    if rule.reads_labels:
        return "labels"
    return "loss" if rule.is_direct else f"layer_{rule.origin(layer)}/update"


def _settings(spec: RunSpec) -> Iterator[Any]:
    """The keys of the spec and the results, in the form of the table of runs."""
    from tensorboard.plugins.hparams import summary_v2 as hparams

    values = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flat(spec.model_dump(mode="json")).items()
        if key.split(".")[0] not in _BESIDE
    }
    names, metrics = [hparams.HParam(key) for key in values], [hparams.Metric(tag) for tag in _METRICS]
    yield hparams.hparams_config_pb(hparams=names, metrics=metrics)
    yield hparams.hparams_pb(values)


def _end(*, finished: bool) -> Any:
    """That the run has ended, and how, for the table of runs."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if finished else api_pb2.STATUS_FAILURE
    data = plugin_data_pb2.HParamsPluginData(
        session_end_info=plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    )
    about = metadata.create_summary_metadata(data)
    tag = metadata.SESSION_END_INFO_TAG
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
