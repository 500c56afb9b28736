"""The requests of a layer to its ports as it works: a signal to take, or one to give.

A layer's work is a generator. It stops wherever it takes or gives a signal, and whoever drives it decides when it goes
on. So one thread can work for many layers: none of them blocks it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from distfa.core.routes import Kind, Link

T = TypeVar("T")


class Take(NamedTuple):
    """Ask for the signal that the schedule expects from a link, shape (rows, *link.shape), and no other."""

    link: Link
    kind: Kind
    step: int
    micro_batch: int
    rows: int


class Give(NamedTuple):
    """Send a signal over a link."""

    link: Link
    kind: Kind
    step: int
    micro_batch: int
    signal: Tensor


Request = Take | Give
Work = Generator[Request, Any, T]
"""Work that asks for signals on the way: each ``Take`` is answered with its signal."""


class Ports(Protocol):
    """A layer's ends of its links."""

    def take(self, request: Take) -> Tensor:
        """The signal that is asked for."""

    def give(self, request: Give) -> None:
        """Send the signal."""

    def seen(self, link: Link, signal: Tensor) -> Tensor:
        """A training signal as the receiver should see it: the same numbers, or those the codec rounds them to."""


def complete(work: Work[T], ports: Ports) -> T:
    """Do all of it, where every signal is there by the time that it is asked for; returns what the work returns."""
    try:
        request = next(work)
        while True:
            signal = None
            try:
                if isinstance(request, Take):
                    signal = ports.take(request)
                else:
                    ports.give(request)
            except Exception as exc:
                request = work.throw(exc)  # its layer is to be named
            else:
                request = work.send(signal)
    except StopIteration as end:
        value: T = end.value
        return value
