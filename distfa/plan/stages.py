"""What is simulated: a stage for every layer, a channel for every link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import simpy

from distfa.core.schedule import Operation


@dataclass(kw_only=True)
class Channel:
    """One link: its messages' sizes and costs, by micro-batch of a step.

    Attributes:
        sender: Layer.
        receiver: Layer.
        up: Whether it carries activations.
        sizes: Bytes of a message.
        send: Seconds in the sending layer's thread; 0 where a layer only passes on what it received.
        receive: Seconds in the receiving layer's thread.
        carry: Seconds in the wire's threads, at each end.
        limit: Messages it holds, from the send until the receiver takes them.
        onward: Channels by which the receiver passes the message on, unopened.
        relayed: Whether it is such a channel: its sender's layer does not wait for room in it.
    """

    sender: int
    receiver: int
    up: bool
    sizes: tuple[int, ...]
    send: tuple[float, ...]
    receive: tuple[float, ...]
    carry: tuple[float, ...]
    limit: int
    onward: list[Channel] = field(default_factory=list)
    relayed: bool = False
    held: int = 0
    arrived: int = 0
    room: simpy.Event | None = None
    news: simpy.Event | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One layer's work, in seconds, by micro-batch of a step.

    Attributes:
        node: Where it is.
        operations: Makes its stream of operations.
        forward: From the activation to the next.
        learn: From the error message to what is sent on.
        after: What is left of the backward once that is sent.
        update: Of the optimizer.
    """

    node: int
    operations: Callable[[], Iterator[Operation]]
    forward: tuple[float, ...]
    learn: tuple[float, ...]
    after: tuple[float, ...]
    update: float
