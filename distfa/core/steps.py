"""The steps of one layer, over ports: the same code for every engine.

The serial engine calls it in the plainest order, and its ports are dictionaries. A worker calls it in the order of the
schedule, and its ports are those of the wire. The engine decides order and transport; what is computed is in this file
only. Whatever takes or gives a signal is ``Work``: it stops there until its engine lets it go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distfa.core.base.finite import require_finite, require_finite_loss
from distfa.core.base.metrics import Figure, Meters
from distfa.core.base.order import Batch
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Inputs, Targets
from distfa.core.base.scored import Scored
from distfa.core.blame import blame_own_layer
from distfa.core.books.digest import Digest, digest, of_matrix
from distfa.core.books.joining import Entry
from distfa.core.books.probe import AlignmentSums, LayerProbe
from distfa.core.books.records import AuditRecord, EvalRecord, RenewalRecord, StepRecord
from distfa.core.layer import Layer, Part
from distfa.core.probing import Probing
from distfa.core.replicas import Beside, add_in_order
from distfa.core.requests import Give, Ports, Take, Work
from distfa.core.routes import Direction, Kind, Link, beside, links
from distfa.core.schedule import renewal_lag
from distfa.errors import LayerError

T = TypeVar("T")

AUDIT = 2**31  # number of the audit's message, which comes among those of an evaluation


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of one half of a data set that a layer reads: inputs, targets, or neither."""

    inputs: Inputs | None
    targets: Targets | None


class LayerSteps:
    """The work of one layer.

    Args:
        recipe: The run's.
        layer: The layer.
        ports: Its ends of its links.
        train: Training samples: inputs for the first layer, targets for those that read labels.
        test: Test samples, in the same form.
        enter: Called with everything that the layer reports.
        started: ``time.monotonic`` when training began.
        replica: Which replica of the layer this is, counted from 0; None: all of them, one after the other.
    """

    def __init__(
        self,
        recipe: Recipe,
        layer: Layer,
        ports: Ports,
        *,
        train: Share,
        test: Share,
        enter: Callable[[Entry], None],
        started: float,
        replica: int | None = None,
    ) -> None:
        self._recipe, self.layer, self._ports, self._enter = recipe, layer, ports, enter
        self._train, self._test, self._started = train, test, started
        self._replica = replica
        every = (replace(link, replica=replica or 0) for link in links(recipe))
        own = [link for link in every if layer.index in (link.sender, link.receiver)]
        self._beside = Beside(beside(recipe, layer.index), replica or 0, recipe.replicas, recipe.dtype)
        self._in = {link.direction: link for link in own if link.receiver == layer.index}
        self._out: Mapping[tuple[Direction, int], Link] = {
            (link.direction, link.boundary): link for link in own if link.sender == layer.index
        }
        self._tallies = [l for l in own if l.direction is Direction.TALLY and l.receiver == layer.index]
        self._scored: dict[Part, Scored] = {}
        self._gradients: dict[int, Tensor] = {}  # gradients of the loss, for the micro-batches of a probe
        self._probings: dict[int, Probing] = {}  # by step

    def resume(self) -> Work[None]:
        """Tell once more what was told before the run was interrupted, and has not been heard."""
        for probe in self.layer.undecided.values():
            yield from self._tell(probe)

    # -- training -------------------------------------------------------------------------------

    @blame_own_layer
    def forward(self, batch: Batch, micro_batch: int) -> Work[None]:
        """Take one micro-batch up through the layer; at the output up to its loss."""
        h_in = yield from self._below(Direction.UP, Kind.ACTIVATION, batch, micro_batch)
        looked_at = batch.probe or self.layer.rule.may_renew(batch.step)
        h = self.layer.forward(h_in, (batch.step, micro_batch), looked_at=looked_at)
        if self.layer.is_output:
            self._scored[batch.step, micro_batch] = self._score(h, batch, micro_batch)
        else:
            yield from self._give(Direction.UP, self.layer.index, Kind.ACTIVATION, batch, micro_batch, h)

    @blame_own_layer
    def begin(self, batch: Batch) -> Work[None]:
        """Before the step's first backward: new feedback, where the rule renews it, and what the step draws."""
        cosine = yield from self._find_renewal_cause(batch)
        if cosine is not None or self.layer.rule.renews(batch.step):
            yield from self._renew(batch, cosine)
        self.layer.begin_step(batch.step)

    @blame_own_layer
    def backward(self, batch: Batch, micro_batch: int) -> Work[None]:
        """Form delta, send errors on, and only then add to the gradient, since others wait for the errors."""
        layer, part = self.layer, (batch.step, micro_batch)
        told = None if layer.is_output else (yield from self._message(batch, micro_batch))
        delta = layer.output_delta(self._scored[part], part) if told is None else layer.hidden_delta(told, part)
        for boundary in layer.sends_to:
            message = layer.emit(boundary, delta, part)
            yield from self._give(Direction.DOWN, boundary, Kind.ERROR, batch, micro_batch, message)
        if batch.probe:
            s = self._scored[part].gradient if told is None else layer.teach(told, part)
            yield from self._compare(batch, micro_batch, s, delta)
        layer.accumulate(delta, part)

    @blame_own_layer
    def update(self, batch: Batch) -> Work[None]:
        """Make the optimizer's step and report on it."""
        if batch.probe:
            self._enter(seen := self._probings.pop(batch.step).result())
            if self.layer.rule.heeds_probes:
                self.layer.undecided[batch.step] = seen
                yield from self._tell(seen)
        yield from self._add_up(batch)
        for half in self.layer.update(batch.step, batch.lr):
            self._enter(half)
        scored = (yield from self._collect_scores(batch)) if self.layer.is_output else None
        if scored is not None:
            self._enter(
                StepRecord(
                    step=batch.step,
                    epoch=batch.epoch,
                    loss=_mean_loss([loss for loss, _ in scored], batch),
                    correct=sum(correct for _, correct in scored),
                    rows=batch.rows,
                    seconds=time.monotonic() - self._started,
                )
            )
        if batch.cut or batch.last:
            yield from self._compare_states(batch.step)

    # -- outside training ------------------------------------------------------------------------

    @blame_own_layer
    def probe_up(self, batch: Batch, micro_batch: int) -> Work[None]:
        """A probe's forward of one micro-batch, at the weights before the step."""
        h_in = yield from self._below(Direction.PROBE_UP, Kind.PROBE, batch, micro_batch)
        h = self._probing(batch).forward(h_in, micro_batch)
        if self.layer.is_output:
            self._gradients[micro_batch] = self._score(h, batch, micro_batch).gradient
        else:
            yield from self._give(Direction.PROBE_UP, self.layer.index, Kind.PROBE, batch, micro_batch, h)

    @blame_own_layer
    def probe_down(self, batch: Batch, micro_batch: int) -> Work[None]:
        """Take the true gradient of one micro-batch down through the layer."""
        if self.layer.is_output:
            gradient = self._gradients.pop(micro_batch)
        else:
            gradient = yield from self._take(Direction.PROBE_DOWN, Kind.PROBE, batch, micro_batch)
        down = self._probing(batch).backward(gradient, micro_batch)
        if down is not None:
            yield from self._give(Direction.PROBE_DOWN, self.layer.index - 1, Kind.PROBE, batch, micro_batch, down)

    @blame_own_layer
    def evaluate_part(self, batch: Batch, number: int, rows: NDArray[np.int64], score: Score) -> Work[None]:
        """Take one part of the test set up through the layer."""
        h = yield from self._infer(self._test, batch.step, number, rows)
        if h is not None:
            score.add(self.layer, h, _require_given(self._test.targets), rows)

    @blame_own_layer
    def finish_evaluation(self, batch: Batch, score: Score) -> None:
        """The whole test set has passed."""
        if not self.layer.is_output:
            return
        if self._recipe.check_finite:
            require_finite_loss(score.loss, layer=self.layer.index, step=batch.step)
        self._enter(
            EvalRecord(
                step=batch.step,
                epoch=batch.epoch,
                loss=score.loss,
                correct=score.correct,
                rows=score.rows,
                seconds=time.monotonic() - self._started,
                metrics=score.metrics(),
            )
        )

    @blame_own_layer
    def audit(self, batch: Batch, rows: NDArray[np.int64]) -> Work[None]:
        """Take a few training samples up through the trained layer, in a message after those of the test set."""
        h = yield from self._infer(self._train, batch.step, AUDIT, rows)
        if h is not None:
            self._enter(AuditRecord(rows=len(rows), outputs=tuple(h.double().flatten().tolist())))

    # -- replicas --------------------------------------------------------------------------------

    def _add_up(self, batch: Batch) -> Work[None]:
        """Add up what the layer's replicas have accumulated."""
        replicas, gradients = self._recipe.replicas, self.layer.accumulators
        if replicas == 1:
            return
        if self._replica is None:
            total = add_in_order([gradients.part(replica) for replica in range(replicas)])
        else:
            total = yield from self._beside.add_up(gradients.part(self._replica), batch.step)
        gradients.take(total)

    def _collect_scores(self, batch: Batch) -> Work[list[tuple[float, int]] | None]:
        """(loss, correct) of every micro-batch, in order; None where another replica reports them."""
        parts = range(len(batch.parts))
        scored = {m: self._scored.pop((batch.step, m)) for m in parts if (batch.step, m) in self._scored}
        if self._replica is None or self._recipe.replicas == 1:
            return [(scored[m].loss, scored[m].correct) for m in parts]
        own = [[scored[m].loss, scored[m].correct] if m in scored else [0.0, 0.0] for m in parts]
        figures = torch.tensor(own, dtype=torch.float64).flatten()
        found = [f.view(-1, 2).tolist() for f in (yield from self._beside.collect(figures, batch.step, 0))]
        if not found:
            return None
        return [(loss, int(correct)) for m in parts for loss, correct in [found[m % len(found)][m]]]

    def _compare_states(self, step: int) -> Work[None]:
        """All replicas of a layer must hold the same state.

        Raises:
            LayerError: One does not.
        """
        if self._replica is None or self._recipe.replicas == 1:
            return
        state = [of_matrix(value) for _, value in sorted(self.layer.state_dict().items())]
        own = torch.tensor([digest(torch.tensor(state))])
        found = yield from self._beside.collect(own, step, 1)
        for replica, other in enumerate(found):
            if other.item() != own.item():
                raise LayerError(
                    f"layer {self.layer.index}, step {step}: the state of replica {replica} is not that of replica 0; "
                    "their processors round in different ways, or a replica's memory was altered: run replicas on "
                    "equal machines"
                )

    # -- parts ----------------------------------------------------------------------------------

    def _infer(self, share: Share, step: int, number: int, rows: NDArray[np.int64]) -> Work[Tensor | None]:
        """Take samples up through the layer in evaluation; the last layer returns its output, others send it on."""
        if Direction.UP in self._in:
            h_in = yield Take(self._in[Direction.UP], Kind.EVALUATION, step, number, len(rows))
        else:
            h_in = _require_given(share.inputs).read(rows)
        h = self.layer.infer(h_in, number)
        if self.layer.is_output:
            return h
        yield Give(self._out[Direction.UP, self.layer.index], Kind.EVALUATION, step, number, h)
        return None

    def _probing(self, batch: Batch) -> Probing:
        """The probe of a step, which begins with whatever this layer does first in it."""
        if batch.step not in self._probings:
            self._probings[batch.step] = Probing(self._recipe, self.layer, batch.step)
        return self._probings[batch.step]

    def _compare(self, batch: Batch, micro_batch: int, s: Tensor, delta: Tensor) -> Work[None]:
        """Compare s_l with what backpropagation would send, and let the layer below do the same."""
        layer, probing = self.layer, self._probing(batch)
        if layer.is_output:
            rows = probing.sound_at_output(self._scored[batch.step, micro_batch])
        else:
            straight = yield from self._take(Direction.PROBE_DOWN, Kind.STRAIGHT, batch, micro_batch)
            rows = probing.compare(s, straight)
        if layer.index > 1:
            straight = probing.straight(micro_batch, s, delta, rows)
            yield from self._give(Direction.PROBE_DOWN, layer.index - 1, Kind.STRAIGHT, batch, micro_batch, straight)

    def _tell(self, probe: LayerProbe) -> Work[None]:
        """Let the output layer know what this layer saw in a probe."""
        if not self.layer.is_output:
            link, tally = self._out[Direction.TALLY, self.layer.index], probe.to_message(self._recipe.signal_dtype)
            yield Give(link, Kind.TALLY, probe.step, 0, tally)

    def _find_renewal_cause(self, batch: Batch) -> Work[float | None]:
        """The alignment that calls for a renewal; None where nothing does.

        A few steps after a probe all layers have told what they saw. Then the output layer decides, and its decision
        goes down before the layers begin the step. So no run depends on when a message arrives.
        """
        layer, seen = self.layer, batch.step - renewal_lag(self._recipe)
        if (own := layer.undecided.pop(seen, None)) is None:
            return None
        cosine = 0.0  # only the output layer knows it
        if layer.is_output:
            sums = AlignmentSums()
            for link in self._tallies:
                tally = yield Take(link, Kind.TALLY, seen, 0, 1)
                sums = sums.plus(LayerProbe.from_message(tally, step=seen, layer=link.sender))
            cosine = sums.plus(own).cosine
            renew = float(layer.rule.calls_for_renewal(cosine))
            verdict = torch.full((1, 1), renew, dtype=self._recipe.signal_dtype, device=layer.device)
        else:
            verdict = yield Take(self._in[Direction.VERDICT], Kind.VERDICT, batch.step, 0, 1)
        if layer.index > 1:
            yield Give(self._out[Direction.VERDICT, layer.index - 1], Kind.VERDICT, batch.step, 0, verdict)
        return cosine if verdict.item() else None

    def _renew(self, batch: Batch, cosine: float | None) -> Work[None]:
        """Take rows of feedback from above, keep them, and send down what this layer's own forward makes of them."""
        if self.layer.is_output:
            feedback: Tensor | None = None  # the identity
            if self._recipe.feedback.renew.on:
                self._enter(RenewalRecord(step=batch.step, cosine=cosine))
        else:
            link = self._in[Direction.RENEWAL]
            feedback = yield Take(link, Kind.RENEWAL, batch.step, 0, self._recipe.network.outputs)
            self._note(link, batch, 0, "received", feedback)
        down = self.layer.renew(feedback, (batch.step, 0))
        if down is not None:
            yield from self._give(Direction.RENEWAL, self.layer.index - 1, Kind.RENEWAL, batch, 0, down)

    def _below(self, direction: Direction, kind: Kind, batch: Batch, micro_batch: int) -> Work[Tensor]:
        """The activation from the layer below; the data itself at the first layer."""
        if direction in self._in:
            return (yield from self._take(direction, kind, batch, micro_batch))
        return _require_given(self._train.inputs).read(batch.parts[micro_batch])

    def _message(self, batch: Batch, micro_batch: int) -> Work[Tensor]:
        """The rule's error message to this layer, or the labels it reads for itself."""
        if Direction.DOWN in self._in:
            return (yield from self._take(Direction.DOWN, Kind.ERROR, batch, micro_batch))
        target = _require_given(self._train.targets).read(batch.parts[micro_batch])
        return self.layer.label_message(target, batch.divisor)

    def _score(self, output: Tensor, batch: Batch, micro_batch: int) -> Scored:
        targets = _require_given(self._train.targets)
        private = self._recipe.private is not None  # then the divisor tells nothing about the batch
        whole = batch.divisor if private else self.layer.divisor(targets, np.concatenate(batch.parts))
        scored = self.layer.score(output, targets.read(batch.parts[micro_batch]), whole)
        if self._recipe.check_finite:
            require_finite_loss(scored.loss, layer=self.layer.index, step=batch.step)
        return scored

    def _take(self, direction: Direction, kind: Kind, batch: Batch, micro_batch: int) -> Work[Tensor]:
        link = self._in[direction]
        signal: Tensor = yield Take(link, kind, batch.step, micro_batch, len(batch.parts[micro_batch]))
        if self._recipe.check_finite:
            what = f"the activation from layer {link.sender}" if direction.is_up else "the error signal"
            require_finite(signal, what, layer=self.layer.index, step=batch.step)
        if kind.is_training:
            self._note(link, batch, micro_batch, "received", signal)
        return signal

    def _give(
        self, direction: Direction, boundary: int, kind: Kind, batch: Batch, micro_batch: int, signal: Tensor
    ) -> Work[None]:
        link = self._out[direction, boundary]
        yield Give(link, kind, batch.step, micro_batch, signal)
        if kind.is_training:
            self._note(link, batch, micro_batch, "sent", signal)

    def _note(self, link: Link, batch: Batch, micro_batch: int, end: str, signal: Tensor) -> None:
        """Report this end's digest of a signal, in steps that are entered in the books, if digests are asked for."""
        if not (self._recipe.ledger.exact and self._recipe.ledger.due(batch.step)):
            return
        seen = self._ports.seen(link, signal) if end == "sent" else signal
        self._enter(
            Digest(
                boundary=link.boundary,
                direction=link.direction.value,
                sender=link.sender,
                receiver=link.receiver,
                step=batch.step,
                micro_batch=micro_batch,
                end=end,
                value=digest(seen),
            )
        )


def _mean_loss(shares: Sequence[float], batch: Batch) -> float:
    """The mean over the rows of a batch, from its parts' shares; 0 where it has none."""
    loss = sum(shares)
    return loss if batch.divisor == batch.rows else loss * batch.divisor / max(1, batch.rows)


class Score:
    """Adds up loss and metrics over the parts of a test set of ``rows`` samples."""

    def __init__(self, rows: int) -> None:
        self.rows, self.loss, self.correct = rows, 0.0, 0
        self._divisor: float | None = None
        self._meters: Meters | None = None

    def add(self, layer: Layer, output: Tensor, targets: Targets, rows: NDArray[np.int64]) -> None:
        """Add the output layer's answers for one part of the rows."""
        if self._divisor is None or self._meters is None:
            self._divisor, self._meters = layer.divisor(targets, np.arange(self.rows)), layer.meters()
        target = targets.read(rows)
        scored = layer.score(output, target, self._divisor)
        self.loss, self.correct = self.loss + scored.loss, self.correct + scored.correct
        self._meters.update(output, target)

    def metrics(self) -> dict[str, Figure]:
        """The figures of the metrics."""
        return {} if self._meters is None else self._meters.compute()


def _require_given(value: T | None) -> T:
    """The value, which a layer at this place in the network must have."""
    if value is None:
        raise LayerError("a layer was started without the data that it reads")
    return value
