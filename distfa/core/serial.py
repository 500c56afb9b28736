"""The oracle: the same run in one process, one layer after the other, in the plainest order.

Every other engine must give these bits: weights, losses, accuracies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distfa.core import order
from distfa.core.finite import require_finite, require_finite_loss
from distfa.core.layer import Layer
from distfa.core.ledger import LedgerRecord, join
from distfa.core.probe import Alignments, ProbeRecord
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
        self.recipe = recipe
        self._train, self._test = train, test
        self._started = 0.0
        self._carry_activation, self._carry_error = carry_activation, carry_error
        self.layers = [
            Layer(recipe, l, device=device, given=(given or {}).get(l)) for l in range(1, len(recipe.network) + 1)
        ]

    def run(self) -> Iterator[Record]:
        """Train; yields a record per step and per evaluation.

        Raises:
            NonFiniteError: A signal or the loss is NaN or infinite.
        """
        self._started = time.monotonic()
        for batch in order.batches(self.recipe, len(self._train.inputs)):
            record, entries = self._step(batch)
            yield record
            yield from entries
            if batch.evaluate and len(self._test.inputs):
                yield self._evaluate(batch)

    def state(self) -> dict[str, Tensor]:
        """All weights, under the keys of the user's model."""
        return {key: value for layer in self.layers for key, value in layer.state().items()}

    def _step(self, batch: order.Batch) -> tuple[StepRecord, list[LedgerRecord | ProbeRecord]]:
        loss, correct = 0.0, 0
        for layer in self.layers:
            layer.begin_step(batch.step, probed=batch.probe)
        for m, rows in enumerate(batch.parts):
            h = self._train.inputs.read(rows)
            for layer in self.layers:
                if layer.index > 1:
                    h = self._carry_activation(h)
                    self._check(h, f"the activation from layer {layer.index - 1}", layer.index, batch.step)
                h = layer.forward(h, m)
            target = self._train.targets.read(rows)
            scored = self.layers[-1].score(h, target, batch.rows)
            if self.recipe.check_finite:
                require_finite_loss(scored.loss, layer=len(self.layers), step=batch.step)
            loss, correct = loss + scored.loss, correct + scored.correct
            messages: dict[int, Tensor] = {}  # boundary -> what the layer below it receives
            for layer in reversed(self.layers):
                if layer is self.layers[-1]:
                    delta = layer.output_delta(scored, m)
                elif layer.rule.reads_labels:
                    delta = layer.hidden_delta(layer.label_message(target, batch.rows), m)
                else:
                    message = messages.pop(layer.index)
                    self._check(message, "the error signal", layer.index, batch.step)
                    delta = layer.hidden_delta(message, m)
                for boundary in layer.sends_to:
                    messages[boundary] = self._carry_error(layer.emit(boundary, delta))
                layer.accumulate(delta, m)
        entries: list[LedgerRecord | ProbeRecord] = [self._probe(batch)] if batch.probe else []
        halves = [half for layer in self.layers for half in layer.update(batch.step)]
        entries += [
            join([half for half in halves if half.boundary == boundary], lossy=self._lossy)
            for boundary in sorted({half.boundary for half in halves})
        ]
        record = StepRecord(
            step=batch.step,
            epoch=batch.epoch,
            loss=loss,
            correct=correct,
            rows=batch.rows,
            seconds=time.monotonic() - self._started,
        )
        return record, entries

    def _probe(self, batch: order.Batch) -> ProbeRecord:
        """The true backward pass of the batch, beside the rule's, before the update."""
        for m in range(len(batch.parts)):
            message: Tensor | None = None
            for layer in reversed(self.layers):
                message = layer.probe(message, m)
        return self._alignments.add([layer.probed(batch.step) for layer in self.layers])

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
