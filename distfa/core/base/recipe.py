"""The recipe: everything that determines the trained weights, bit for bit, apart from the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt

from distfa.core.base.model import Network
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.private import Mechanism

INITS: tuple[str, ...] = ("aligned", "random", "given")
SCHEDULES: tuple[str, ...] = ("sync", "async")
Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0), Lt(2**63)]


@dataclass(frozen=True, kw_only=True)
class RenewConfig:
    """Renewal of direct feedback.

    Strictly speaking this is weight transport: products of weights travel, although weights never do.

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
            raise ValueError("renew.every and renew.below cannot be combined; leave one out")

    @property
    def on(self) -> bool:
        """Whether feedback is ever renewed after the start."""
        return self.every is not None or self.below is not None


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """The feedback matrices.

    Attributes:
        rank: fa and dfa only: the rank of B; None: full.
        inside: Hop-by-hop rules, in a layer of several weights: whether the layer's own gradient goes back through its
            weights (``exact``; nothing crosses a wire there) or also through feedback (``feedback``).
        gain: Scale of B, on top of that of the weights.
        active_only: Hop-by-hop rules: send an error as 0 if the activation in its place is 0 and comes from a ReLU,
            which would block the error anyway; with ``packed`` or ``+zstd`` such a zero takes almost no bytes. Results
            do not change if activations are lossless; a lossy codec also drops the errors of those it rounds to 0.
        renew: dfa and dkp: recompute B_l from the current weights from time to time; strictly speaking this is weight
            transport, and it is off by default.
        decay: dkp only: weight decay of B, decoupled as in AdamW, even under ``adam``; None: 0.1.
        fanout: dfa at full rank, dkp and skip: a layer sends the error to this many others, which pass it on
            (1: a relay); None: the output layer sends to all; pays off from about 64 layers.
    """

    rank: Annotated[int, Ge(1)] | None = None
    inside: Literal["exact", "feedback"] = "exact"
    gain: Annotated[float, Gt(0)] = 1.0
    active_only: bool = False
    renew: RenewConfig = RenewConfig()
    decay: Annotated[float, Ge(0)] | None = None
    fanout: Annotated[int, Ge(1)] | None = None


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """The conservation ledger: how well the law of every boundary holds, by cause.

    Attributes:
        every: Steps between entries; 0: no ledger.
        on_violation: stop: end the run where the law breaks; warn: report it and continue.
        neurons: Also record every neuron's share of an entry (large).
        exact: In those steps, both ends also compare digests of every signal, so that any altered number shows.

    Raises:
        ValueError: There are no entries for ``neurons`` or ``exact`` to go with.
    """

    every: Annotated[int, Ge(0)] = 100
    on_violation: Literal["stop", "warn", "ignore"] = "warn"
    neurons: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.every == 0 and (self.exact or self.neurons):
            raise ValueError("exact and neurons need ledger entries, but every is 0; set ledger.every to 1 or more")

    def due(self, step: int) -> bool:
        """Whether ``step`` is entered."""
        return bool(self.every) and step % self.every == 0


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probes of gradient alignment: a true backward pass in addition to the rule's own.

    Attributes:
        every: Steps between probes; 0: none.
    """

    every: Annotated[int, Ge(0)] = 100


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """The cuts: places between two steps where the state of all layers can be kept.

    They belong to what decides the weights, because under ``async`` the pipe runs empty there.

    Attributes:
        every: Steps between points where the run can resume; 0: none. Under async the pipe drains at each.
        at_evaluation: Also at the end of every epoch, so that a run can be stopped there; set by fit.
    """

    every: Annotated[int, Ge(0)] = 100
    at_evaluation: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that every layer of a run must agree on.

    Attributes:
        network: The layers.
        rule: Feedback rule; ``distfa rules`` lists them; your own is package.module:name.
        init: aligned: feedback starts from the weights; random: the classical setting; given: like random, except that
            a network of plain layers also starts from the model's own weights (not with model: mlp).
        distribution: Distribution of the initial weights and of feedback matrices.
        feedback: The feedback matrices.
        loss: cross_entropy; mse for regression; bce for several labels per sample; yours: package.module:name, or
            torch.nn:HuberLoss.
        label_smoothing: cross_entropy only: the share of a label spread evenly over all classes.
        class_weights: cross_entropy only: one number per class, by which its samples' loss is multiplied.
        metrics: Figures of the test set beside loss and accuracy: top5; recall, precision, f1 per class; mae, rmse, r2;
            yours: package.module:name. They decide no weight.
        optimizer: The local optimizer of every layer.
        epochs: Passes over the training set.
        max_steps: Stop after this many steps.
        batch_size: Samples of a step.
        micro_batches: Parts a batch is split into, to fill the pipe.
        schedule: sync: all signals of a step come from the same weights; async: the next step's forward passes
            start while errors are still in transit, with a fixed delay of less than a step; needs micro_batches above
            1.
        sync_epochs: async only: the first epochs, this many, run as sync, since delays cost accuracy early on.
        eval_every: Epochs between evaluations.
        threads: Of torch, in every worker; how BLAS adds up depends on it.
        replicas: Of every layer: micro-batch m belongs to replica m mod ``replicas``, and their gradients are added
            before the update. The order of addition depends on it.
        seed: Of weights, feedback and the order of samples.
        check_finite: Stop at NaN or infinity in a signal or the loss.
        ledger: The conservation ledger.
        probe: Probes of gradient alignment.
        cuts: Where the state of all layers can be kept.
        dtype: Of weights, gradients and optimizer state; and of signals and products, unless ``mixed``.
        mixed: Whether signals and products are bfloat16 (Micikevicius et al., "Mixed precision training", ICLR 2018).
        order: ``drawn``: every epoch is a permutation of the samples, from the seed; ``given``: rows are numbered
            through all epochs, and the data set knows which sample each is (``distfa.data.given_order``).
        batches: The rows of every batch of every epoch, where a loader makes them; None: by ``batch_size``, which is
            then the largest.
        shards: Rows of every shard, where a data set has those; an epoch's order is then drawn shard by shard
            (``windows``). Empty: over all rows.
        window: How many shards are shuffled together.
        audit_rows: This many training samples go up the trained layers at the end, and the outputs are compared with
            those of the user's model; 0 for none.
        private: How private training clips and adds noise; None: no training of that kind.
    """

    network: Network
    rule: str = "dfa"
    init: str = "aligned"
    distribution: str = "orthogonal"
    feedback: FeedbackConfig = FeedbackConfig()
    loss: str = "cross_entropy"
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    class_weights: tuple[Annotated[float, Ge(0)], ...] | None = None
    metrics: tuple[str, ...] = ()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: Count = 20
    max_steps: Count | None = None
    batch_size: Count = 32
    micro_batches: Count = 1
    schedule: str = "sync"
    sync_epochs: Annotated[int, Ge(0)] = 1
    eval_every: Count = 1
    threads: Count = 1
    replicas: Count = 1
    seed: Seed = 0
    check_finite: bool = True
    ledger: LedgerConfig = LedgerConfig()
    probe: ProbeConfig = ProbeConfig()
    cuts: CutConfig = CutConfig()
    dtype: torch.dtype = torch.float32
    mixed: bool = False
    order: str = "drawn"
    batches: tuple[tuple[int, ...], ...] | None = None
    shards: tuple[int, ...] = ()
    window: int = 1
    audit_rows: int = 0
    private: Mechanism | None = None

    @property
    def signal_dtype(self) -> torch.dtype:
        """Of activations and error signals, as products take them and as they travel."""
        return torch.bfloat16 if self.mixed else self.dtype

    def without_books(self) -> Recipe:
        """The same recipe with neither ledger nor probes."""
        return replace(self, ledger=LedgerConfig(every=0), probe=ProbeConfig(every=0))
