"""A layer worker: one layer, its ports, and the loop that works through the schedule.

The same plain class runs in a thread (tests) or in a Ray actor (actors.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from distfa.codecs import LOSSLESS, resolve
from distfa.core import order, schedule
from distfa.core.digest import Digest, digest
from distfa.core.finite import require_finite_loss
from distfa.core.layer import Layer, Part
from distfa.core.ledger import Half
from distfa.core.losses import Scored
from distfa.core.probe import LayerProbe
from distfa.core.records import EvalRecord, Record, StepRecord
from distfa.errors import DistfaError, LayerError
from distfa.runtime.job import Job, RawInputs, RawTargets, links
from distfa.runtime.timeline import Timeline
from distfa.transport.base import Tap, Transport
from distfa.transport.inbox import Inbox
from distfa.transport.message import Direction, Kind, Link
from distfa.transport.port import InPort, OutPort, Traffic, Waiting

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a worker says when asked how it fares.

    Attributes:
        layer: Which layer.
        step: The step it works on.
        waiting_for: In words; empty while it computes.
        waiting_for_layer: Whom it waits for; 0 while it computes.
        since_seconds: How long it has waited, or computed, without a change.
        wait_seconds: Time spent waiting, in all.
        busy_seconds: Time spent otherwise, in all.
        records: New since the last time it was asked: steps and evaluations at the output layer, and timelines.
        halves: This layer's entries in the ledger, new since it was last asked.
        probes: Its probes of gradient alignment, alike.
        digests: Its ends of the signals it sent and received in steps that are due, alike.
        traffic: What it sent so far, per link and kind.
        finished: Whether its run has ended, one way or the other.
    """

    layer: int
    step: int
    waiting_for: str
    waiting_for_layer: int
    since_seconds: float
    wait_seconds: float
    busy_seconds: float
    records: tuple[Record, ...]
    halves: tuple[Half, ...]
    probes: tuple[LayerProbe, ...]
    digests: tuple[Digest, ...]
    traffic: dict[tuple[Link, Kind], Traffic]
    finished: bool


class LayerWorker:
    """Runs layer ``layer`` of a job.

    Args:
        job: The run.
        layer: Which layer, counted from 1.
        inputs: For the first layer.
        targets: For the layers that read labels (``job.reads_labels``).
        given: (W, b) to start from, for ``init: given``.
        tap: Sees every message this worker sends.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        *,
        inputs: RawInputs | None = None,
        targets: RawTargets | None = None,
        given: tuple[Tensor, Tensor | None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        recipe, device = job.recipe, torch.device(job.device)
        self._job = job
        self._tap = tap
        self._layer = Layer(recipe, layer, device=device, given=given)
        self._inputs = inputs.readers(recipe.dtype, device) if inputs else None
        self._targets = targets.readers(recipe.dtype, device) if targets else None
        self._links = links(recipe)
        self._waiting = Waiting()
        self._transport: Transport | None = None
        self._above: OutPort | None = None  # activations go up here
        self._below: InPort | None = None  # activations come in here
        self._errors_in: InPort | None = None
        self._errors_out: dict[int, OutPort] = {}
        self._probes_below: InPort | None = None  # a probe's activations come in here
        self._probes_above: OutPort | None = None
        self._probes_in: InPort | None = None  # and its errors here
        self._probes_out: OutPort | None = None
        self._scored: dict[Part, Scored] = {}
        self._step = 0
        self._started = 0.0
        self._finished = 0.0
        self._progressed = time.monotonic()
        self._records: list[Record] = []
        self._halves: list[Half] = []
        self._probes: list[LayerProbe] = []
        self._digests: list[Digest] = []
        self._lock = threading.Lock()

    # -- life ---------------------------------------------------------------------------------

    def listen(self, transport: Transport) -> str:
        """Take in signals by ``transport``; returns this layer's address."""
        self._transport = transport
        wire = self._job.wire
        inboxes = {
            link: Inbox(
                link,
                run_id=self._job.run_id,
                window=wire.window,
                max_payload_bytes=wire.max_payload_bytes,
            )
            for link in self._links
            if link.receiver == self._layer.index
        }
        for link, inbox in inboxes.items():
            port = self._in_port(link, inbox)
            if link.direction is Direction.UP:
                self._below = port
            elif link.direction is Direction.DOWN:
                self._errors_in = port
            elif link.direction is Direction.PROBE_UP:
                self._probes_below = port
            else:
                self._probes_in = port
        return transport.listen(list(inboxes.values()))

    def connect(self, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream to every layer this one sends to.

        Args:
            addresses: Layer -> address.
            deadline_seconds: For each stream.
        """
        for link in self._links:
            if link.sender != self._layer.index:
                continue
            port = self._out_port(link, addresses[link.receiver], deadline_seconds)
            if link.direction is Direction.UP:
                self._above = port
            elif link.direction is Direction.DOWN:
                self._errors_out[link.boundary] = port
            elif link.direction is Direction.PROBE_UP:
                self._probes_above = port
            else:
                self._probes_out = port

    def run(self) -> None:
        """Train this layer to the end of the run.

        Raises:
            LayerError: Whatever went wrong, with layer and step.
        """
        if self._layer.device.type == "cpu":
            torch.set_num_threads(1)  # engines agree to the last bit only thread for thread
        self._started = self._progressed = time.monotonic()
        try:
            recipe, layer = self._job.recipe, self._layer.index
            batches = order.batches(recipe, self._job.train_rows)
            timeline = Timeline(layer, order.steps(recipe, self._job.train_rows), self._waiting)
            for operation in schedule.operations(batches, schedule.ahead(recipe, layer)):
                self._step = operation.batch.step
                with timeline.span(operation):
                    self._carry_out(operation)
                self._progressed = time.monotonic()
            self._record(timeline.record())
            for port in self._out_ports():
                port.close()
        except DistfaError:
            raise
        except Exception as exc:
            raise LayerError(f"layer {self._layer.index}, step {self._step}: {type(exc).__name__}: {exc}") from exc
        finally:
            self._finished = time.monotonic()

    def status(self) -> Status:
        """How the layer fares; records are handed out once."""
        with self._lock:
            records, self._records = tuple(self._records), []
            halves, self._halves = tuple(self._halves), []
            probes, self._probes = tuple(self._probes), []
            digests, self._digests = tuple(self._digests), []
        now = time.monotonic()
        waiting, total = self._waiting, (self._finished or now) - (self._started or now)
        return Status(
            layer=self._layer.index,
            step=self._step,
            waiting_for=waiting.what,
            waiting_for_layer=waiting.layer if waiting.what else 0,
            since_seconds=now
            - (waiting.since if waiting.what else max(self._progressed, waiting.ended, self._started)),
            wait_seconds=waiting.total_seconds,
            busy_seconds=max(0.0, total - waiting.total_seconds),
            records=records,
            halves=halves,
            probes=probes,
            digests=digests,
            traffic={
                (port.link, kind): traffic for port in self._out_ports() for kind, traffic in port.traffic.items()
            },
            finished=self._finished > 0,
        )

    def state(self) -> dict[str, Tensor]:
        """The layer's weights, on the CPU, under the keys of the user's model."""
        return {key: value.cpu() for key, value in self._layer.state().items()}

    def close(self) -> None:
        """Drop every stream, at once."""
        if self._transport is not None:
            self._transport.close()

    # -- work ---------------------------------------------------------------------------------

    def _carry_out(self, operation: schedule.Operation) -> None:
        batch = operation.batch
        if isinstance(operation, schedule.Forward):
            self._forward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Backward):
            self._backward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Begin):
            self._layer.begin_step(batch.step, probed=batch.probe)
            if batch.probe:
                self._probe(batch)
        elif isinstance(operation, schedule.Update):
            self._update(batch)
        elif self._job.test_rows:
            self._evaluate(batch)

    def _forward(self, batch: order.Batch, micro_batch: int) -> None:
        rows = batch.parts[micro_batch]
        if self._below is not None:
            h = self._receive(self._below, Kind.ACTIVATION, batch, micro_batch)
        else:
            h = _given(self._inputs)[0].read(rows)
        h = self._layer.forward(h, (batch.step, micro_batch))
        if self._above is not None:
            self._send(self._above, h, Kind.ACTIVATION, batch, micro_batch)
        else:
            self._scored[batch.step, micro_batch] = self._score(h, batch, micro_batch)

    def _update(self, batch: order.Batch) -> None:
        probe = self._layer.probed(batch.step) if batch.probe else None
        halves = self._layer.update(batch.step, batch.lr)
        with self._lock:
            self._halves.extend(halves)
            self._probes.extend([] if probe is None else [probe])
        if self._above is None:
            scored = [self._scored.pop((batch.step, m)) for m in range(len(batch.parts))]
            self._record(
                StepRecord(
                    step=batch.step,
                    epoch=batch.epoch,
                    loss=sum(s.loss for s in scored),
                    correct=sum(s.correct for s in scored),
                    rows=batch.rows,
                    seconds=time.monotonic() - self._started,
                )
            )

    def _probe(self, batch: order.Batch) -> None:
        """This layer's part in the true gradient of the batch, at the weights before its step."""
        gradients: list[Tensor] = []
        for m, rows in enumerate(batch.parts):
            if self._probes_below is not None:
                h = self._receive(self._probes_below, Kind.PROBE, batch, m)
            else:
                h = _given(self._inputs)[0].read(rows)
            h = self._layer.probe_forward(h, m)
            if self._probes_above is not None:
                self._send(self._probes_above, h, Kind.PROBE, batch, m)
            elif self._above is None:
                gradients.append(self._score(h, batch, m).gradient)
        for m in range(len(batch.parts)):
            gradient = gradients[m] if gradients else self._receive(_given(self._probes_in), Kind.PROBE, batch, m)
            down = self._layer.probe_backward(gradient, m)
            if self._probes_out is not None and down is not None:
                self._send(self._probes_out, down, Kind.PROBE, batch, m)

    def _score(self, output: Tensor, batch: order.Batch, micro_batch: int) -> Scored:
        target = _given(self._targets)[0].read(batch.parts[micro_batch])
        scored = self._layer.score(output, target, batch.rows)
        if self._job.recipe.check_finite:
            require_finite_loss(scored.loss, layer=self._layer.index, step=batch.step)
        return scored

    def _backward(self, batch: order.Batch, micro_batch: int) -> None:
        """Form delta, send errors on, and only then add to the gradient: others wait for the errors."""
        layer, part = self._layer, (batch.step, micro_batch)
        if self._above is None:
            delta = layer.output_delta(self._scored[part], part)
        else:
            delta = layer.hidden_delta(self._message(batch, micro_batch), part)
        for boundary in layer.sends_to:
            self._send(self._errors_out[boundary], layer.emit(boundary, delta), Kind.ERROR, batch, micro_batch)
        if batch.probe and self._probes_in is not None:
            layer.compare(self._receive(self._probes_in, Kind.PROBE, batch, micro_batch))
        if batch.probe and self._probes_out is not None:
            self._send(self._probes_out, layer.straight(delta), Kind.PROBE, batch, micro_batch)
        layer.accumulate(delta, part)

    def _message(self, batch: order.Batch, micro_batch: int) -> Tensor:
        """The rule's error message to this layer."""
        if self._errors_in is not None:
            return self._receive(self._errors_in, Kind.ERROR, batch, micro_batch)
        return self._layer.label_message(_given(self._targets)[0].read(batch.parts[micro_batch]), batch.rows)

    def _send(self, port: OutPort, signal: Tensor, kind: Kind, batch: order.Batch, micro_batch: int) -> None:
        port.send(signal, kind=kind, step=batch.step, micro_batch=micro_batch)
        if self._digested(kind, batch):
            self._note(port.link, batch, micro_batch, "sent", port.digest(signal))

    def _receive(self, port: InPort, kind: Kind, batch: order.Batch, micro_batch: int) -> Tensor:
        rows = len(batch.parts[micro_batch])
        signal = port.receive(kind=kind, step=batch.step, micro_batch=micro_batch, rows=rows)
        if self._digested(kind, batch):
            self._note(port.link, batch, micro_batch, "received", digest(signal))
        return signal

    def _digested(self, kind: Kind, batch: order.Batch) -> bool:
        recipe = self._job.recipe
        return recipe.ledger_exact and kind.is_training and recipe.ledger_due(batch.step)

    def _note(self, link: Link, batch: order.Batch, micro_batch: int, end: str, value: int) -> None:
        note = Digest(
            boundary=link.boundary,
            direction=link.direction.value,
            sender=link.sender,
            receiver=link.receiver,
            step=batch.step,
            micro_batch=micro_batch,
            end=end,
            value=value,
        )
        with self._lock:
            self._digests.append(note)

    def _evaluate(self, batch: order.Batch) -> None:
        """Pass the test set up the layers, exactly; the output layer keeps the score."""
        loss, correct, total = 0.0, 0, self._job.test_rows
        for part, rows in enumerate(order.evaluation(total)):
            if self._below is not None:
                h = self._below.receive(kind=Kind.EVALUATION, step=batch.step, micro_batch=part, rows=len(rows))
            else:
                h = _given(self._inputs)[1].read(rows)
            h = self._layer.infer(h)
            if self._above is not None:
                self._above.send(h, kind=Kind.EVALUATION, step=batch.step, micro_batch=part)
            else:
                scored = self._layer.score(h, _given(self._targets)[1].read(rows), total)
                loss, correct = loss + scored.loss, correct + scored.correct
            self._progressed = time.monotonic()
        if self._above is None:
            if self._job.recipe.check_finite:
                require_finite_loss(loss, layer=self._layer.index, step=batch.step)
            self._record(
                EvalRecord(
                    step=batch.step,
                    epoch=batch.epoch,
                    loss=loss,
                    correct=correct,
                    rows=total,
                    seconds=time.monotonic() - self._started,
                )
            )

    # -- ends ---------------------------------------------------------------------------------

    def _out_ports(self) -> list[OutPort]:
        ports = (self._above, *self._errors_out.values(), self._probes_above, self._probes_out)
        return [port for port in ports if port is not None]

    def _record(self, record: Record) -> None:
        with self._lock:
            self._records.append(record)

    def _in_port(self, link: Link, inbox: Inbox) -> InPort:
        job = self._job
        return InPort(
            link=link,
            run_id=job.run_id,
            codec=job.codec(link.direction),
            exact_codec=resolve(LOSSLESS, job.recipe.signal_dtype),
            inbox=inbox,
            dtype=job.recipe.signal_dtype,
            device=self._layer.device,
            wire=job.wire,
            waiting=self._waiting,
            check_finite=job.recipe.check_finite,
        )

    def _out_port(self, link: Link, address: str, deadline_seconds: float) -> OutPort:
        job = self._job
        return OutPort(
            link=link,
            run_id=job.run_id,
            codec=job.codec(link.direction),
            exact_codec=resolve(LOSSLESS, job.recipe.signal_dtype),
            sender=_given(self._transport).connect(link, address, deadline_seconds),
            wire=job.wire,
            waiting=self._waiting,
            tap=self._tap,
        )


def _given(value: T | None) -> T:
    """The value, which the worker's place in the network says must be there."""
    if value is None:
        raise LayerError("a worker was started without its data or its connections; call listen and connect first")
    return value
