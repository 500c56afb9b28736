"""The routes of a run: which signals travel between which layers, and in what shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from itertools import permutations

from distfa.core import rules
from distfa.core.base.model import Shape
from distfa.core.base.recipe import Recipe
from distfa.core.books.probe import TALLY_NUMBERS


class Kind(Enum):
    """The kind of a signal."""

    ACTIVATION = "activation"
    ERROR = "error"
    EVALUATION = "evaluation"
    PROBE = "probe"  # in a probe: activations on the way up, true gradients on the way down
    STRAIGHT = "straight"  # what backpropagation would make of the rule's own delta, in a probed step
    RENEWAL = "renewal"  # rows of feedback
    TALLY = "tally"  # what a layer saw in a probe, sent to the output layer, which decides
    VERDICT = "verdict"  # whether feedback is to be renewed, on its way down
    GRADIENT = "gradient"  # a piece of a layer's gradient, between its replicas
    FIGURES = "figures"  # a replica's share of a step's figures, or the digest of its state

    @property
    def is_training(self) -> bool:
        """Whether it is training traffic; evaluation and probes are counted separately."""
        return self in (
            Kind.ACTIVATION,
            Kind.ERROR,
            Kind.RENEWAL,
            Kind.TALLY,
            Kind.VERDICT,
            Kind.GRADIENT,
            Kind.FIGURES,
        )

    @property
    def is_exact(self) -> bool:
        """Whether no codec rounds it."""
        return self not in (Kind.ACTIVATION, Kind.ERROR)


class Direction(Enum):
    """Which way a link carries signals: activations up, error messages down; probes and renewals beside them."""

    UP = "up"
    DOWN = "down"
    SHARED = "shared"  # errors that are the same for several layers of a worker, and go there once
    PROBE_UP = "probe-up"
    PROBE_DOWN = "probe-down"
    RENEWAL = "renewal"
    TALLY = "tally"
    VERDICT = "verdict"
    BESIDE = "beside"  # from one replica of a layer to another

    @property
    def is_up(self) -> bool:
        """Whether it leads to the layer above."""
        return self in (Direction.UP, Direction.PROBE_UP, Direction.TALLY)


@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction of one boundary: a sender, a receiver, and one stream between them.

    Attributes:
        boundary: l, between layers l and l+1; between replicas of a layer the layer.
        direction: Which way.
        sender: Layer that sends; for a direct rule this need not be a neighbour.
        receiver: Layer that receives.
        shape: Of one sample of every signal on this link.
        replica: Which replica sends, counted from 0.
        to_replica: Which one receives; None: the same.
    """

    boundary: int
    direction: Direction
    sender: int
    receiver: int
    shape: Shape
    replica: int = 0
    to_replica: int | None = None

    @property
    def receiving_replica(self) -> int:
        """Which replica of the receiver takes its signals."""
        return self.replica if self.to_replica is None else self.to_replica

    @property
    def columns(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.shape)

    def __hash__(self) -> int:  # that of all fields takes longer, and every signal looks its link up
        return hash((self.boundary, self.sender, self.receiver))

    def __str__(self) -> str:
        if self.to_replica is not None:
            return f"beside layer {self.sender}, replica {self.replica} to {self.to_replica}"
        which = f", replica {self.replica}" if self.replica else ""
        return f"{self.direction.value} across boundary {self.boundary}, layer {self.sender} to {self.receiver}{which}"


def links(recipe: Recipe) -> tuple[Link, ...]:
    """Every link of a run: per boundary one up, one down from the rule's origin if any, and those beside them."""
    rule, network = rules.build_rule(recipe), recipe.network
    found = [_link(b, Direction.UP, b, network.shapes[b]) for b in network.boundaries]
    for b in network.boundaries:
        if (origin := rule.origin(b)) is not None:
            found.append(_link(b, Direction.DOWN, origin, rule.shape(b)))
    for b in network.boundaries if recipe.probe.every else ():
        found += [
            _link(b, Direction.PROBE_UP, b, network.shapes[b]),
            _link(b, Direction.PROBE_DOWN, b + 1, network.shapes[b]),
        ]
    for b in network.boundaries if rule.ever_renews else ():
        inner = network.shapes[b][len(network.positions) :]
        found.append(_link(b, Direction.RENEWAL, b + 1, (math.prod(inner),)))
    for b in network.boundaries if rule.heeds_probes else ():
        told = Link(boundary=b, direction=Direction.TALLY, sender=b, receiver=len(network), shape=(TALLY_NUMBERS,))
        found += [told, _link(b, Direction.VERDICT, b + 1, (1,))]
    return tuple(found)


def replica_links(recipe: Recipe) -> tuple[Link, ...]:
    """Every link of a run with replicas: ``links`` for each of them, and those between the replicas of a layer."""
    found = [replace(link, replica=replica) for replica in range(recipe.replicas) for link in links(recipe)]
    for layer in range(1, len(recipe.network) + 1):
        found += beside(recipe, layer)
    return tuple(found)


def beside(recipe: Recipe, layer: int) -> list[Link]:
    """The links from every replica of a layer to every other."""
    one = Link(boundary=layer, direction=Direction.BESIDE, sender=layer, receiver=layer, shape=(1,))
    pairs = permutations(range(recipe.replicas), 2)
    return [replace(one, replica=sender, to_replica=receiver) for sender, receiver in pairs]


def _link(boundary: int, direction: Direction, sender: int, shape: Shape) -> Link:
    receiver = boundary + 1 if direction.is_up else boundary
    return Link(boundary=boundary, direction=direction, sender=sender, receiver=receiver, shape=shape)


def reads_labels(recipe: Recipe, layer: int) -> bool:
    """Whether a layer is given the targets: the output layer, and all where the rule reads labels."""
    return layer == len(recipe.network) or rules.RULES[recipe.rule].reads_labels
