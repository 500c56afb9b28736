"""The parts of a simulation: a stage for every layer, a channel for every link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import simpy

from distfa.core.schedule import Operation


@dataclass(kw_only=True)
class Channel:
    """One link: the sizes and costs of its messages, by micro-batch of a step.

    Attributes:
        sender: The layer that sends.
        receiver: The layer that receives.
        up: Whether it carries activations.
        sizes: Bytes of each message.
        send: Seconds in the sending layer's thread.
        receive: Seconds in the receiving layer's thread.
        carry: Seconds in the wire's threads, at each end.
        limit: How many messages it holds, from sending until the receiver takes them.
        inside: Whether both layers are in one worker, and no wire is between them.
        along: Channels that bring the same messages to other layers of the receiver's worker.
    """

    sender: int
    receiver: int
    up: bool
    sizes: tuple[int, ...]
    send: tuple[float, ...]
    receive: tuple[float, ...]
    carry: tuple[float, ...]
    limit: int
    inside: bool = False
    along: list[Channel] = field(default_factory=list)
    held: int = 0
    arrived: int = 0
    room: simpy.Event | None = None
    news: simpy.Event | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One layer's work, in seconds, by micro-batch of a step.

    Attributes:
        node: The node it is on.
        worker: The worker that hosts it.
        operations: Makes the stream of its operations.
        forward: From the activation it gets to the one it sends.
        learn: From the error message to what is sent on.
        after: The rest of the backward, after that is sent.
        update: The optimizer's step.
    """

    node: int
    worker: int
    operations: Callable[[], Iterator[Operation]]
    forward: tuple[float, ...]
    learn: tuple[float, ...]
    after: tuple[float, ...]
    update: float
