"""The oracle: the same run in one process, one layer after the other, in the plainest order.

Every other engine must give these bits: weights, losses, accuracies, books.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distfa.core import schedule
from distfa.core.base import order
from distfa.core.base.private import Noise
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Split
from distfa.core.books.joining import Books, Entry
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.records import Cut, Record
from distfa.core.layer import Layer
from distfa.core.requests import Give, Take, Work, complete
from distfa.core.routes import Direction, Kind, Link
from distfa.core.steps import LayerSteps, Score, Share

Carry = Callable[[Tensor], Tensor]


def carry_unchanged(signal: Tensor) -> Tensor:
    """Return the signal unchanged, as a lossless wire does."""
    return signal


class Tables:
    """Ports that are dictionaries: what is given stays there until it is taken.

    Args:
        up: What the wire makes of an activation; the identity for a lossless codec.
        down: The same for error messages.
        exact: The same for what else training sends, which is never rounded.
    """

    def __init__(self, up: Carry, down: Carry, exact: Carry) -> None:
        self._up, self._down, self._exact = up, down, exact
        self._in_transit: dict[tuple[Link, Kind, int, int], Tensor] = {}

    def take(self, request: Take) -> Tensor:
        """Hand out a signal that was given; each once."""
        return self._in_transit.pop(request[:4])

    def give(self, request: Give) -> None:
        """Put it there, as the wire would carry it."""
        signal = request.signal
        if not request.kind.is_exact:
            signal = self.seen(request.link, signal)
        elif request.kind.is_training:
            signal = self._exact(signal)
        self._in_transit[request[:4]] = signal

    def seen(self, link: Link, signal: Tensor) -> Tensor:
        """The signal as the codec of this direction rounds it."""
        if link.direction is Direction.RENEWAL:
            return signal
        carry = self._up if link.direction.is_up else self._down
        return carry(signal.flatten(1)).view(signal.shape)


class SerialTrainer:
    """Trains all layers of a recipe in this process.

    Args:
        recipe: What to train.
        train: Training samples.
        test: Test samples; may be empty.
        carry_activation: What the wire makes of an activation (rows, columns); the identity for a lossless codec.
        carry_error: The same for error messages.
        carry_exact: The same for what else training sends, which is never rounded: rows of feedback, tallies.
        modules: The user's modules, for the layers that start from them.
        device: Where to compute.
        lossy: Whether what is carried may be rounded on the way.
        noise: What each layer of a private run draws its noise from.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Split,
        test: Split,
        *,
        carry_activation: Carry = carry_unchanged,
        carry_error: Carry = carry_unchanged,
        carry_exact: Carry = carry_unchanged,
        modules: Mapping[int, nn.Module] | None = None,
        device: torch.device | str = "cpu",
        lossy: bool = False,
        noise: Mapping[int, Noise] | None = None,
    ) -> None:
        self.recipe = recipe
        self._train, self._test = train, test
        self._ports = Tables(carry_activation, carry_error, carry_exact)
        self._books = Books(len(recipe.network), lossy=lossy)
        self._entries: list[Entry] = []
        numbers = range(1, len(recipe.network) + 1)
        self.layers = [
            Layer(recipe, l, device=device, module=(modules or {}).get(l), noise=(noise or {}).get(l)) for l in numbers
        ]
        self._delay = {l: schedule.delay(recipe, l) for l in numbers}
        self._waiting: dict[int, deque[tuple[order.Batch, int]]] = {l: deque() for l in numbers}
        self._steps: list[LayerSteps] = []
        self._first = 0

    def run(self, *, stop: int | None = None, elapsed_seconds: float = 0.0) -> Iterator[Record]:
        """Train, to the end or before step ``stop``.

        Yields a record for each step, once every layer has made its update, a record for each evaluation, the entries
        of the books, and a cut wherever ``state_dict`` may be called.

        Every micro-batch goes up through all layers. Then every layer, from the top, makes the backward that is due:
        under ``sync`` that of the same micro-batch, under ``async`` that of an earlier one, as many before as the
        layer's delay.

        Args:
            stop: None for the end of the run.
            elapsed_seconds: How long training took before the step it goes on with.

        Raises:
            NonFiniteError: A signal or the loss is NaN or infinite.
        """
        self._steps = self._build_steps(time.monotonic() - elapsed_seconds)
        for steps in self._steps:
            self._do(steps.resume())
        samples = len(self._train.inputs)
        for batch in order.batches(self.recipe, samples, first=self._first, stop=stop):
            for m in range(len(batch.parts)):
                for steps in self._steps:
                    self._do(steps.forward(batch, m))
                    self._waiting[steps.layer.index].append((batch, m))
                if self._make_backwards():
                    yield from self._join_reports()
            while batch.drains and any(self._waiting.values()):
                if self._make_backwards(drain=True):
                    yield from self._join_reports()
            if not batch.parts:
                for steps in reversed(self._steps):
                    self._do(steps.begin(batch))
                    self._do(steps.update(batch))
                yield from self._join_reports()
            if batch.evaluate and len(self._test.inputs):
                self._evaluate(batch)
            if batch.last and len(rows := order.audit(self.recipe, samples)):
                for steps in self._steps:
                    self._do(steps.audit(batch, rows))
            yield from self._join_reports()
            self._first = batch.step + 1
            if batch.cut:
                yield Cut(step=self._first)

    def state(self) -> dict[str, Tensor]:
        """All weights, under the keys of the user's model."""
        return {key: value for layer in self.layers for key, value in layer.state().items()}

    @property
    def books(self) -> Books:
        """The books of the run."""
        return self._books

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to continue from here; only between two steps, when the pipe is empty."""
        layers = {layer.index: layer.state_dict() for layer in self.layers}
        return {"step": self._first, "layers": layers, "books": self._books.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, bit for bit."""
        self._first = state["step"]
        self._books.load_state_dict(state["books"])
        for layer in self.layers:
            layer.load_state_dict(state["layers"][layer.index])

    def _build_steps(self, started: float) -> list[LayerSteps]:
        return [
            LayerSteps(
                self.recipe,
                layer,
                self._ports,
                train=Share(inputs=self._train.inputs, targets=self._train.targets),
                test=Share(inputs=self._test.inputs, targets=self._test.targets),
                enter=self._entries.append,
                started=started,
            )
            for layer in self.layers
        ]

    def _do(self, work: Work[None]) -> None:
        complete(work, self._ports)

    def _make_backwards(self, *, drain: bool = False) -> bool:
        """Make the backward of every layer with more micro-batches waiting than its delay; to drain, of all with any.

        Returns:
            Whether every layer has now made a step's update.
        """
        allowed = {l: 0 if drain else delay for l, delay in self._delay.items()}
        numbers = [l for l in reversed(allowed) if len(self._waiting[l]) > allowed[l] and not self._awaits_probe(l)]
        due = [self._steps[l - 1] for l in numbers]
        if due and due[-1] is self._steps[0]:
            batch, m = self._waiting[1][0]
            # all layers have made the update before this step, and no layer has made that of this step
            if m == 0 and batch.probe:
                self._probe(batch)
        whole = False
        for steps in due:
            batch, m = self._waiting[steps.layer.index].popleft()
            if m == 0:
                self._do(steps.begin(batch))
            self._do(steps.backward(batch, m))
            if m == len(batch.parts) - 1:
                self._do(steps.update(batch))
                whole = steps is self._steps[0]
        return whole

    def _awaits_probe(self, layer: int) -> bool:
        """Whether a layer is about to begin a probed step that layers below have not come to.

        A small batch has fewer micro-batches than lower layers are behind: the layer would make its update before the
        probe of its weights.
        """
        batch, m = self._waiting[layer][0]
        below = (self._waiting[l] for l in range(1, layer))
        return m == 0 and batch.probe and batch.drains and any(w and w[0][0].step < batch.step for w in below)

    def _probe(self, batch: order.Batch) -> None:
        """The true gradient of the batch at the weights before its step; signals between layers are exact."""
        for m in range(len(batch.parts)):
            for steps in self._steps:
                self._do(steps.probe_up(batch, m))
            for steps in reversed(self._steps):
                self._do(steps.probe_down(batch, m))

    def _evaluate(self, batch: order.Batch) -> None:
        score = Score(len(self._test.inputs))
        for number, rows in enumerate(order.evaluation(self.recipe, score.rows)):
            for steps in self._steps:
                self._do(steps.evaluate_part(batch, number, rows, score))
        self._steps[-1].finish_evaluation(batch, score)

    def _join_reports(self) -> Iterator[Record]:
        """The layers' reports, joined: ledger entries come last, from the first boundary up."""
        entries, self._entries[:] = list(self._entries), []
        records = [record for entry in entries for record in self._books.add(entry)]
        yield from sorted(records, key=lambda r: (r.step, r.boundary) if isinstance(r, LedgerRecord) else (-1, 0))


def evaluate_layers(
    recipe: Recipe, layers: list[Layer], test: Split, *, tick: Callable[[int], None] = lambda rows: None
) -> Score:
    """Loss, answers that are right, and metrics over a whole split; signals between layers are exact.

    Args:
        recipe: The run's.
        layers: All layers, in order.
        test: The split.
        tick: Called with the rows done so far, again and again.
    """
    score = Score(len(test.inputs))
    for part, rows in enumerate(order.evaluation(recipe, score.rows)):
        h = test.inputs.read(rows)
        for layer in layers:
            h = layer.infer(h, part)
        score.add(layers[-1], h, test.targets, rows)
        tick(int(rows[-1]) + 1)
    return score
