"""What travels: one encoded signal and its identity; and the link it travels on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from distfa.codecs import Payload


class Kind(Enum):
    """What a signal is."""

    ACTIVATION = "activation"
    ERROR = "error"
    EVALUATION = "evaluation"
    PROBE = "probe"

    @property
    def is_training(self) -> bool:
        """Whether it is training traffic; evaluation and probes are counted apart, and never rounded."""
        return self in (Kind.ACTIVATION, Kind.ERROR)


class Direction(Enum):
    """Which way a link carries signals: activations up, error messages down; probes both ways beside them."""

    UP = "up"
    DOWN = "down"
    PROBE_UP = "probe-up"
    PROBE_DOWN = "probe-down"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction of one boundary: a sender, a receiver, and one stream between them.

    Attributes:
        boundary: l, between layers l and l+1.
        direction: Up or down.
        sender: Layer that sends; for a direct rule this need not be a neighbour.
        receiver: Layer that receives.
        columns: Width of every signal on this link.
    """

    boundary: int
    direction: Direction
    sender: int
    receiver: int
    columns: int

    def __str__(self) -> str:
        return f"{self.direction.value} across boundary {self.boundary}, layer {self.sender} to {self.receiver}"

    def identity(self, run_id: str, kind: Kind, step: int, micro_batch: int) -> Identity:
        """The identity of one signal on this link."""
        return Identity(
            run_id=run_id,
            boundary=self.boundary,
            kind=kind,
            sender=self.sender,
            step=step,
            micro_batch=micro_batch,
        )


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which signal of which run; no two messages of a run share one."""

    run_id: str
    boundary: int
    kind: Kind
    sender: int
    step: int
    micro_batch: int

    def __str__(self) -> str:
        return (
            f"{self.kind.value} from layer {self.sender} across boundary {self.boundary}, "
            f"step {self.step}, micro-batch {self.micro_batch}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """An encoded signal.

    Attributes:
        identity: Which signal it is.
        dtype: Number type of the decoded signal.
        shape: (rows, columns).
        codec: Name of the codec that wrote the payload.
        checksum: CRC-32C of the payload, or None where the run does without.
        payload: The encoded numbers.
    """

    identity: Identity
    dtype: torch.dtype
    shape: tuple[int, int]
    codec: str
    checksum: int | None
    payload: Payload
