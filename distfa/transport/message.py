"""A message: one encoded signal and its identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distfa.codecs import Payload
from distfa.core.routes import Direction, Kind, Link

__all__ = ["Direction", "Identity", "Kind", "Link", "Message", "identify_message"]


def identify_message(link: Link, run_id: str, kind: Kind, step: int, micro_batch: int) -> Identity:
    """The identity of one signal on a link."""
    return Identity(
        run_id=run_id,
        boundary=link.boundary,
        kind=kind,
        sender=link.sender,
        replica=link.replica,
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
    replica: int = 0
    step: int
    micro_batch: int

    def __str__(self) -> str:
        if self.kind in (Kind.GRADIENT, Kind.FIGURES):
            return (
                f"{self.kind.value} of layer {self.sender} from replica {self.replica}, step {self.step}, piece "
                f"{self.micro_batch}"
            )
        which = f", replica {self.replica}," if self.replica else ""
        return (
            f"{self.kind.value} from layer {self.sender}{which} across boundary {self.boundary}, "
            f"step {self.step}, micro-batch {self.micro_batch}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """An encoded signal.

    Attributes:
        identity: Which signal it is.
        dtype: Number type of the decoded signal.
        shape: (rows, *shape of one sample).
        codec: Name of the codec that wrote the payload.
        checksum: CRC-32C of the payload; None if the run uses none.
        payload: The encoded numbers.
    """

    identity: Identity
    dtype: torch.dtype
    shape: tuple[int, ...]
    codec: str
    checksum: int | None
    payload: Payload
