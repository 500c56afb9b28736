"""The recipe: everything that determines the trained weights, bit for bit, besides the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le

from distfa.core.base.model import Network
from distfa.core.base.optim import OptimizerConfig

INITS: tuple[str, ...] = ("aligned", "random", "given")
SCHEDULES: tuple[str, ...] = ("sync", "async")


@dataclass(frozen=True, kw_only=True)
class RenewConfig:
    """Renewal of direct feedback.

    In the strict sense this is weight transport: products of weights travel, weights never do.

    Attributes:
        every: Steps between renewals; None: not at fixed intervals.
        below: Renew after a probe whose gradient alignment is below this: in the next step, under ``async`` in the one
            after; None: never.
        rows: Samples over which every layer takes the mean of its Jacobian.

    Raises:
        ValueError: Both ``every`` and ``below`` are given.
    """

    every: Annotated[int, Ge(1)] | None = None
    below: Annotated[float, Gt(-1), Le(1)] | None = None
    rows: Annotated[int, Ge(1)] = 32

    def __post_init__(self) -> None:
        if self.every is not None and self.below is not None:
            raise ValueError("renew goes by every or by below, not by both; leave one of them out")

    @property
    def on(self) -> bool:
        """Whether feedback is ever renewed after the start."""
        return self.every is not None or self.below is not None


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """The feedback matrices.

    Attributes:
        rank: fa and dfa only: the rank of B; None: full.
        inside: For rules that go hop by hop, in a layer of several weights: the layer's own gradient goes back through
            its weights (``exact``), since nothing crosses a wire there, or through feedback too (``feedback``).
        gain: Scale of B, on top of that of the weights.
        active_only: For rules that go hop by hop: an error number is sent as 0 if the activation at its place is 0 and
            comes from a ReLU, which would stop the error anyway; with ``packed`` or ``+zstd`` such a number takes
            almost no bytes. Results do not change if activations are lossless; a lossy codec also drops the errors of
            those it rounds to 0.
        renew: dfa and dkp: make B_l anew from the current weights from time to time; in the strict sense this is weight
            transport, and it is off unless asked for.
        decay: dkp only: weight decay of B, decoupled as in AdamW, also under ``adam``; None: 0.1.
        fanout: dfa at full rank, and dkp: a layer sends the error to this many others, which pass it on (1: a relay);
            None: the output layer sends to all; worth it from about 64 layers on.
    """

    rank: Annotated[int, Ge(1)] | None = None
    inside: Literal["exact", "feedback"] = "exact"
    gain: Annotated[float, Gt(0)] = 1.0
    active_only: bool = False
    renew: RenewConfig = RenewConfig()
    decay: Annotated[float, Ge(0)] | None = None
    fanout: Annotated[int, Ge(1)] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every layer of a run must agree on.

    Attributes:
        network: The layers.
        rule: Name of the feedback rule (``distfa.core.rules.RULES``).
        init: ``aligned``: feedback starts on the weights (theory.md, aligned initialisation); ``random``: it is drawn
            from separate streams, the classical setting. In a network of plain layers W(0) is drawn from the seed, so
            that any end can draw it; other networks start from the modules that were given. ``given``: W(0) is the
            user's model in any network, and B is drawn as for ``random``.
        distribution: Of W(0) and B: ``orthogonal``, ``normal`` or ``uniform`` (``distfa.core.base.draw``).
        feedback: The feedback matrices.
        loss: Name of the loss (``distfa.core.base.losses.LOSSES``).
        label_smoothing: Of cross_entropy.
        class_weights: Of cross_entropy, one number per class; None: 1 for all.
        optimizer: The local optimizer of every layer.
        epochs: Passes over the training set.
        max_steps: Stop after this many steps, whatever the epochs; None for no limit.
        batch_size: Rows of a step.
        micro_batches: Parts a batch is split into, to fill the pipe.
        schedule: ``sync`` or ``async`` (``distfa.core.schedule``).
        sync_epochs: Under ``async``, this many epochs at the start run as ``sync``.
        eval_every: Evaluate on the test set after every so many epochs, and always after the last.
        dtype: Of weights, gradients and optimizer state; and of signals and products, unless ``mixed``.
        mixed: Whether signals and products are bfloat16 (Micikevicius et al., "Mixed precision training", ICLR 2018).
        seed: Of weights, feedback and data order.
        order: ``drawn``: every epoch is a permutation of the samples, from the seed; ``given``: rows go on over the
            epochs, and the data set knows which sample each is (``distfa.data.given_order``).
        batches: The rows of every batch of every epoch, where a loader makes them; None: by ``batch_size``, which is
            then the largest.
        ledger_every: Steps between entries in the conservation ledger; 0 for none.
        ledger_neurons: Whether entries also keep every neuron's share.
        ledger_exact: Whether both ends of every link also report digests of the signals of those steps.
        probe_every: Steps between probes of gradient alignment; 0 for none.
        audit_rows: This many training samples go up the trained layers at the end, and the outputs are compared with
            those of the user's model; 0 for none.
        checkpoint_every: Steps between cuts, at which the state of all layers can be kept; 0 for none. Under ``async``
            the pipe runs empty there, which is why it belongs to what decides the weights.
        cut_at_epochs: Whether there is also a cut at the end of every epoch, where the pipe is empty anyway.
        check_finite: Whether NaN or infinity in a signal or the loss ends the run.
    """

    network: Network
    rule: str = "dfa"
    init: str = "aligned"
    distribution: str = "orthogonal"
    feedback: FeedbackConfig = FeedbackConfig()
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 32
    micro_batches: int = 1
    schedule: str = "sync"
    sync_epochs: int = 0
    eval_every: int = 1
    dtype: torch.dtype = torch.float32
    mixed: bool = False
    seed: int = 0
    order: str = "drawn"
    batches: tuple[tuple[int, ...], ...] | None = None
    ledger_every: int = 0
    ledger_exact: bool = False
    ledger_neurons: bool = False
    probe_every: int = 0
    audit_rows: int = 0
    checkpoint_every: int = 0
    cut_at_epochs: bool = False
    check_finite: bool = True

    @property
    def signal_dtype(self) -> torch.dtype:
        """Of activations and error signals, as products take them and as they travel."""
        return torch.bfloat16 if self.mixed else self.dtype

    def ledger_due(self, step: int) -> bool:
        """Whether ``step`` is entered in the ledger."""
        return bool(self.ledger_every) and step % self.ledger_every == 0
