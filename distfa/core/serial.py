"""The oracle: the same run in one process, one layer after the other, in the plainest order.

Every other engine must give these bits: weights, losses, accuracies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distfa.core import order, schedule
from distfa.core.finite import require_finite, require_finite_loss
from distfa.core.layer import Layer, Part
from distfa.core.ledger import Half, join
from distfa.core.losses import Scored
from distfa.core.probe import Alignments, LayerProbe
from distfa.core.recipe import Recipe
from distfa.core.records import EvalRecord, Record, StepRecord
from distfa.core.samples import Inputs, Targets

Carry = Callable[[Tensor], Tensor]


def _exact(signal: Tensor) -> Tensor:
    return signal


@dataclass(frozen=True, kw_only=True)
class Split:
    """Inputs and targets of one half of a data set, row by row."""

    inputs: Inputs
    targets: Targets


class SerialTrainer:
    """Trains all layers of a recipe in this process.

    Args:
        recipe: What to train.
        train: Training samples.
        test: Test samples; may be empty.
        carry_activation: What the wire makes of an activation; the identity for a lossless codec.
        carry_error: The same for error messages.
        given: (W, b) of every layer, for ``init: given``.
        device: Where to compute.
        lossy: Whether what is carried may be rounded on the way.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Split,
        test: Split,
        *,
        carry_activation: Carry = _exact,
        carry_error: Carry = _exact,
        given: Mapping[int, tuple[Tensor, Tensor | None]] | None = None,
        device: torch.device | str = "cpu",
        lossy: bool = False,
    ) -> None:
        self._lossy = lossy
        self._alignments = Alignments()
        self._scored: dict[Part, Scored] = {}
        self._messages: dict[tuple[int, Part], Tensor] = {}  # what the layer below a boundary receives
        self._straight: dict[tuple[int, Part], Tensor] = {}  # delta W, in a probed step
        self._probes: list[LayerProbe] = []
        self._halves: list[Half] = []
        self.recipe = recipe
        self._train, self._test = train, test
        self._started = 0.0
        self._carry_activation, self._carry_error = carry_activation, carry_error
        self.layers = [
            Layer(recipe, l, device=device, given=(given or {}).get(l)) for l in range(1, len(recipe.network) + 1)
        ]
        self._delay = {layer.index: schedule.delay(recipe, layer.index) for layer in self.layers}
        self._waiting: dict[int, deque[tuple[order.Batch, int]]] = {layer.index: deque() for layer in self.layers}

    def run(self) -> Iterator[Record]:
        """Train; yields a record per step, once every layer has made its update, and per evaluation, and the books.

        Every micro-batch goes up through all layers; then every layer, from the top, makes the backward that
        is due: under ``sync`` of that micro-batch, under ``async`` of the one its delay before.

        Raises:
            NonFiniteError: A signal or the loss is NaN or infinite.
        """
        self._started = time.monotonic()
        for batch in order.batches(self.recipe, len(self._train.inputs)):
            for m in range(len(batch.parts)):
                self._forward(batch, m)
                yield from self._backwards()
            while batch.drains and any(self._waiting.values()):
                yield from self._backwards(drain=True)
            if batch.evaluate and len(self._test.inputs):
                yield self._evaluate(batch)

    def state(self) -> dict[str, Tensor]:
        """All weights, under the keys of the user's model."""
        return {key: value for layer in self.layers for key, value in layer.state().items()}

    def _forward(self, batch: order.Batch, m: int) -> None:
        """One micro-batch up through all layers, to its loss."""
        h = self._train.inputs.read(batch.parts[m])
        for layer in self.layers:
            if layer.index > 1:
                h = self._carry_activation(h)
                self._check(h, f"the activation from layer {layer.index - 1}", layer.index, batch.step)
            h = layer.forward(h, (batch.step, m))
            self._waiting[layer.index].append((batch, m))
        scored = self.layers[-1].score(h, self._train.targets.read(batch.parts[m]), batch.rows)
        if self.recipe.check_finite:
            require_finite_loss(scored.loss, layer=len(self.layers), step=batch.step)
        self._scored[batch.step, m] = scored

    def _backwards(self, *, drain: bool = False) -> Iterator[Record]:
        """The backward of every layer that has more micro-batches waiting than its delay; to drain, of all with any."""
        allowed = {l: 0 if drain else delay for l, delay in self._delay.items()}
        due = [layer for layer in reversed(self.layers) if len(self._waiting[layer.index]) > allowed[layer.index]]
        if due and due[-1] is self.layers[0]:
            batch, m = self._waiting[1][0]
            if m == 0 and batch.probe:  # all layers have made the update before this step, and none that of this step
                self._probe(batch)
        for layer in due:
            batch, m = self._waiting[layer.index].popleft()
            if m == 0:
                layer.begin_step(batch.step, probed=batch.probe)
            self._backward(layer, batch, m)
            if m == len(batch.parts) - 1:
                yield from self._update(layer, batch)

    def _backward(self, layer: Layer, batch: order.Batch, m: int) -> None:
        part = (batch.step, m)
        if layer is self.layers[-1]:
            delta = layer.output_delta(self._scored[part], part)
        elif layer.rule.reads_labels:
            target = self._train.targets.read(batch.parts[m])
            delta = layer.hidden_delta(layer.label_message(target, batch.rows), part)
        else:
            message = self._messages.pop((layer.index, part))
            self._check(message, "the error signal", layer.index, batch.step)
            delta = layer.hidden_delta(message, part)
        for boundary in layer.sends_to:
            self._messages[boundary, part] = self._carry_error(layer.emit(boundary, delta))
        if batch.probe:
            if layer is not self.layers[-1]:
                layer.compare(self._straight.pop((layer.index, part)))
            if layer is not self.layers[0]:
                self._straight[layer.index - 1, part] = layer.straight(delta)
        layer.accumulate(delta, part)

    def _update(self, layer: Layer, batch: order.Batch) -> Iterator[Record]:
        if batch.probe:
            self._probes.append(layer.probed(batch.step))
        self._halves += layer.update(batch.step, batch.lr)
        if layer is not self.layers[0]:
            return
        scored = [self._scored.pop((batch.step, m)) for m in range(len(batch.parts))]
        yield StepRecord(
            step=batch.step,
            epoch=batch.epoch,
            loss=sum(s.loss for s in scored),
            correct=sum(s.correct for s in scored),
            rows=batch.rows,
            seconds=time.monotonic() - self._started,
        )
        if batch.probe:
            yield self._alignments.add([probe for probe in self._probes if probe.step == batch.step])
            self._probes = [probe for probe in self._probes if probe.step != batch.step]
        mine = [half for half in self._halves if half.step == batch.step]
        self._halves = [half for half in self._halves if half.step != batch.step]
        for boundary in sorted({half.boundary for half in mine}):
            yield join([half for half in mine if half.boundary == boundary], lossy=self._lossy)

    def _probe(self, batch: order.Batch) -> None:
        """The true gradient of the batch at the weights before its step; signals exact between layers."""
        for m, rows in enumerate(batch.parts):
            h = self._train.inputs.read(rows)
            for layer in self.layers:
                h = layer.probe_forward(h, m)
            gradient = self.layers[-1].score(h, self._train.targets.read(rows), batch.rows).gradient
            for layer in reversed(self.layers):
                down = layer.probe_backward(gradient, m)
                gradient = gradient if down is None else down

    def _check(self, signal: Tensor, what: str, layer: int, step: int) -> None:
        if self.recipe.check_finite:
            require_finite(signal, what, layer=layer, step=step)

    def _evaluate(self, batch: order.Batch) -> EvalRecord:
        loss, correct, total = evaluate(self.layers, self._test)
        if self.recipe.check_finite:
            require_finite_loss(loss, layer=len(self.layers), step=batch.step)
        return EvalRecord(
            step=batch.step,
            epoch=batch.epoch,
            loss=loss,
            correct=correct,
            rows=total,
            seconds=time.monotonic() - self._started,
        )


def evaluate(layers: list[Layer], test: Split) -> tuple[float, int, int]:
    """(mean loss, rows classified right, rows) over a whole split, signals exact between layers."""
    loss, correct, total = 0.0, 0, len(test.inputs)
    for rows in order.evaluation(total):
        h = test.inputs.read(rows)
        for layer in layers:
            h = layer.infer(h)
        scored = layers[-1].score(h, test.targets.read(rows), total)
        loss, correct = loss + scored.loss, correct + scored.correct
    return loss, correct, total
