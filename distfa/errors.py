"""The exception tree: every failure distfa reports is one of these.

    DistfaError                      exit code 1: the run failed
    +-- UsageError                   exit code 2: what was asked for cannot be done
    |   +-- SpecError                a key or value of the run spec
    |   +-- ModelError               a module distfa cannot split into layers
    |   +-- DataError                a data set that is missing, malformed or out of range
    |   +-- RunDirError              a run directory that cannot be read or written
    |   +-- CheckpointError          a checkpoint that cannot be read or written
    |   +-- BenchError               a measurement that cannot be made as asked
    |   +-- PlanError                a cluster that is described wrongly, or too small for the run
    +-- ClusterError                 Ray cannot be reached or place the layers, or its nodes differ
    +-- Interrupted                  exit code 130: Ctrl-C
    +-- LayerError                   what went wrong at one layer
        +-- NonFiniteError           NaN or infinity in a signal or the loss
        +-- LedgerViolation          the conservation law does not hold
        +-- LayerLost                a layer's process died, or stopped answering
        +-- TransportError           the wire
            +-- MessageRefused       a message the receiver will not use
            +-- DeadlineExceeded     a wait that ended without what it waited for
            +-- PeerLost             the other end of a stream went away

A message says the value, the rule it broke and the fix, and names the layer and step where it
happened. Foreign exceptions (grpc, ray, pydantic, OSError) are converted once, at the edge.
"""

from __future__ import annotations

from typing import Any

from distfa.text.redact import redact


class DistfaError(Exception):
    """Base of every error distfa raises; ``exit_code`` is what the command line exits with."""

    exit_code = 1

    def __str__(self) -> str:
        return redact(super().__str__())  # a message may name a URL with a password


class UsageError(DistfaError):
    """The request cannot be carried out; nothing was started."""

    exit_code = 2


class SpecError(UsageError):
    """A key or value of the run spec breaks a rule."""


class ModelError(UsageError):
    """The model cannot be split into layers; the message names the module."""


class DataError(UsageError):
    """A data set is missing, malformed or out of range."""


class RunDirError(UsageError):
    """A run directory cannot be read or written."""


class CheckpointError(UsageError):
    """A checkpoint cannot be written, or is not what was written; the message names it."""


class BenchError(UsageError):
    """A measurement cannot be made as asked, or its file cannot be read or written."""


class PlanError(UsageError):
    """A cluster is described wrongly, is too small for the run, or its calibration cannot be used."""


class ClusterError(DistfaError):
    """Ray cannot be reached or place the layers, or its nodes differ."""


class Interrupted(DistfaError):
    """The user ended the run.

    Attributes:
        weights: What the run had learned by then, under the keys of the user's model; None if nothing could be kept.
    """

    exit_code = 130
    weights: Any = None


class LayerError(DistfaError):
    """Something went wrong at one layer; the message names the layer and the step."""


class NonFiniteError(LayerError):
    """A signal or the loss holds NaN or infinity."""


class LedgerViolation(LayerError):
    """The conservation law does not hold at a boundary; the message names the likely causes."""


class LayerLost(LayerError):
    """A layer's process died, or stopped answering."""


class TransportError(LayerError):
    """The wire between two layers failed."""


class MessageRefused(TransportError):
    """A message the receiver will not use: wrong run, step, shape, dtype, codec or checksum."""


class DeadlineExceeded(TransportError):
    """A wait ended without what it waited for; the message names whom it waited for.

    Attributes:
        order: Sorts waits by the flow of signals. Where many layers wait for each other, the first one missed something
            and the others wait because of it.
    """

    order: tuple[int, ...] = ()


class PeerLost(TransportError):
    """The other end of a stream went away."""
