"""Helpers that make links, messages and ports for the tests of the wire."""

from __future__ import annotations

import threading

import numpy as np
import torch

from distfa.codecs import CODECS
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import Credentials
from distfa.transport.inbox import Inbox
from distfa.transport.message import Direction, Identity, Kind, Link, Message
from distfa.transport.port import InPort, OutPort
from distfa.transport.tls import Authority, KeyPair

RUN = "run-1"
UP = Link(boundary=2, direction=Direction.UP, sender=2, receiver=3, shape=(5,))
DOWN = Link(boundary=2, direction=Direction.DOWN, sender=4, receiver=2, shape=(5,))


def identity(**changes) -> Identity:
    """An activation on ``UP``; any field may be given."""
    fields = {"run_id": RUN, "boundary": 2, "kind": Kind.ACTIVATION, "sender": 2, "step": 0, "micro_batch": 0}
    return Identity(**{**fields, **changes})


def message(signal=None, *, codec="fp32", checksum=True, **who) -> Message:
    """A signal as a message; any field of its identity may be given."""
    signal = torch.arange(15.0).reshape(3, 5) if signal is None else signal
    payload = CODECS[codec].encode(signal)
    return Message(
        identity=identity(**who),
        dtype=signal.dtype,
        shape=tuple(signal.shape),
        codec=codec,
        checksum=serde.checksum(payload) if checksum else None,
        payload=payload,
    )


def big(mib: int, *, step: int = 0) -> bytes:
    """A serialized message with this many MiB of payload."""
    payload = np.zeros(mib * 2**20, np.uint8)
    return serde.message_to_bytes(
        Message(
            identity=identity(step=step),
            dtype=torch.float32,
            shape=(1, mib * 2**18),
            codec="fp32",
            checksum=None,
            payload=payload,
        )
    )


def inbox(link: Link = UP, *, window: int = 4, max_payload_bytes: int = 2**28) -> Inbox:
    return Inbox(link, run_id=RUN, window=window, max_payload_bytes=max_payload_bytes)


def out_port(sender, *, link: Link = UP, codec="fp32", exact_codec="fp32", wire=WireConfig(), tap=None) -> OutPort:
    return OutPort(
        link=link,
        run_id=RUN,
        codec=CODECS[codec],
        exact_codec=CODECS[exact_codec],
        sender=sender,
        wire=wire,
        tap=tap,
    )


def in_port(box: Inbox, *, codec="fp32", dtype=torch.float32, wire=WireConfig()) -> InPort:
    return InPort(
        link=box.link,
        run_id=RUN,
        codec=CODECS[codec],
        exact_codec=CODECS["fp64" if dtype == torch.float64 else "fp32"],
        inbox=box,
        dtype=dtype,
        device=torch.device("cpu"),
        wire=wire,
    )


class Background:
    """A call in a thread; ``result`` gives what it returned or raised."""

    def __init__(self, call, *arguments) -> None:
        self._outcome = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call, arguments), daemon=True)
        self._thread.start()

    def _run(self, call, arguments) -> None:
        try:
            self._outcome = call(*arguments)
        except BaseException as exc:
            self._error = exc

    def still_runs_after(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self._thread.is_alive()

    def result(self, seconds: float = 20.0):
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call did not return"
        if self._error is not None:
            raise self._error
        return self._outcome


def issue(authority: Authority, layer: int) -> Credentials:
    """What a layer has once the authority has signed for its key."""
    keys = KeyPair()
    return keys.credentials(authority.sign(keys.request(layer), layer))
