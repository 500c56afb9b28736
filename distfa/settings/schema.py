"""The schema of the run spec: everything one can set in a run, key by key, and the rules between keys."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from distfa import codecs, data, models
from distfa.codecs.choice import AUTO
from distfa.core import rules
from distfa.core.base import activations, draw, losses
from distfa.core.base.metrics import METRICS
from distfa.core.base.model import Network
from distfa.core.base.optim import SCHEDULE_SHAPES, OptimizerConfig
from distfa.core.base.recipe import (
    INITS,
    SCHEDULES,
    Count,
    CutConfig,
    FeedbackConfig,
    LedgerConfig,
    ProbeConfig,
    Recipe,
    Seed,
)
from distfa.own.parts import Parts
from distfa.runtime.job import Job
from distfa.runtime.placement import ClusterConfig
from distfa.sections.traced import ALL
from distfa.settings.launch import LaunchConfig
from distfa.settings.meanings import meanings
from distfa.settings.private import PrivacyConfig, refuse_what_is_not_private, with_private_defaults
from distfa.text.words import not_among
from distfa.transport.base import WireConfig

_BESIDE_CUTS = {"seconds", "keep", "dir", "at_evaluation"}
_BESIDE_REPLICAS = {field.name for field in fields(ClusterConfig)} - {"replicas"}
Batches = tuple[tuple[int, ...], ...]
MLP, GIVEN, ARRAYS = "mlp", "given", "arrays"  # the last two are for runs from Python


def _one_of(names: Collection[str]) -> BeforeValidator:
    """A validator that accepts one of ``names``, and names the nearest one for anything else."""

    def check(value: object) -> object:
        if value not in list(names):  # a value may be a list, which cannot be a key of a table
            raise ValueError(not_among(value, names))
        return value

    return BeforeValidator(check)


def _part_of(parts: Parts[Any], *also: str) -> BeforeValidator:
    """A validator that accepts the name of a part, also of one that is yet to be imported, or the part itself."""
    return BeforeValidator(lambda value: parts.require_name(parts.adopt(value), also))


def as_named(value: object) -> object:
    """``adam`` is short for ``{name: adam}``."""
    return {"name": value} if isinstance(value, str) else value


def as_optimizer(value: object) -> object:
    """``as_named``; a schedule of one's own, given as a function, is named."""
    named = as_named(value)
    if isinstance(named, dict) and callable(named.get("schedule")):
        return named | {"schedule": SCHEDULE_SHAPES.adopt(named["schedule"])}
    return named


def both_ways(value: object) -> object:
    """``int8``, or a codec of one's own, is short for both ways of it."""
    return value if isinstance(value, dict | CodecSpec) else {"activations": value, "errors": value}


def as_list(value: object) -> object:
    """``1024,1024``, ``1024x1024`` or one number as a list."""
    if isinstance(value, str):
        inside = value.strip().strip("[]()").strip().removesuffix(",")
        parts = re.split(r"\s*[,x]\s*|\s+", inside) if inside else []
        return parts if all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", part) for part in parts) else value
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def as_names(value: object) -> object:
    """``top5, recall``, a list, or one of them."""
    if isinstance(value, str):
        return tuple(name for name in re.split(r"[,\s]+", value.strip("[]() ")) if name)
    return value if isinstance(value, list | tuple) else (value,)


def layers_of(value: object) -> object:
    """``4``, ``all``, or names of modules: ``conv1, fc``."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if isinstance(value, str) and value != ALL:
        return tuple(name.strip() for name in value.strip("[]() ").split(","))
    return tuple(map(str, value)) if isinstance(value, list | tuple) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: object) -> object:
        if isinstance(value, dict):
            return {key: cls._paths_are_text(inner) for key, inner in value.items()}
        return os.fspath(value) if isinstance(value, os.PathLike) else value


class DataSpec(_Part):
    """Where samples come from."""

    name: Annotated[str, _one_of((*data.NAMES, ARRAYS))] = Field(
        "digits",
        description="digits and stdlib (characters of Python's own library) need no file; mnist, fashion_mnist, "
        "cifar10, cifar100, npz and shards need dir; hub downloads with Hugging Face datasets",
    )
    dir: str | None = Field(
        None, description="directory with the data set's official files, an .npz file, or a folder or URL with shards"
    )
    limit: int | None = Field(None, ge=1, description="use only the first samples of each split")
    order: Literal["drawn", "given", "poisson"] = Field(
        "drawn",
        description="order of samples; drawn: from the seed; given: as in a DataLoader, in runs from Python; poisson: "
        "every sample is in a batch by chance, in private training",
    )
    mean: float | None = Field(
        None, description="inputs become (x - mean) / std; null: the data set's own, or measured on the training set"
    )
    std: float | None = Field(None, gt=0, description="goes with mean")
    hub: str | None = Field(None, description="only for name: hub, the data set's name on the hub")
    label: str | None = Field(
        None,
        description="only for name: shards, what the labels are called there; null: y in .npz, label in Parquet, cls "
        "in tar files",
    )
    window: int = Field(
        data.WINDOW, ge=1, description="only for name: shards, how many are held in memory and shuffled together"
    )

    def load(self, directory: str | None = None) -> data.Dataset:
        """The samples, read from ``directory`` instead of ``dir`` if they have moved.

        Raises:
            DataError: They cannot be read.
        """
        place = directory or self.dir
        found = data.load(
            self.name, directory=place, limit=self.limit, hub=self.hub, label=self.label, window=self.window
        )
        return found if self.mean is None or self.std is None else found.scaled(self.mean, self.std)

    @model_validator(mode="after")
    def _mean_and_std_go_together(self) -> DataSpec:
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std go together; give both, or neither")
        return self


class ModelSpec(_Part):
    """The model to train."""

    name: str = Field(
        MLP,
        description=f"{', '.join(models.MODELS)}, or package.module:function for a function that returns your own "
        f"nn.Module; hidden to bias are {MLP}'s, depth to head those of residual networks",
    )
    layers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"] | tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(layers_of),
    ] = Field(
        "all",
        description="all: as many as the model has; a number: adjacent ones are put together at nearly equal cost; or "
        "names of the modules that begin a layer",
    )
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_list)] = Field(
        (128, 128), description="widths of the hidden layers"
    )
    activation: Annotated[str, _one_of(activations.NAMES)] = "relu"
    slope: float = Field(0.01, description="leaky_relu only: slope below zero")
    bias: bool = True
    depth: int | None = Field(None, ge=1, description="blocks (preact_resnet: of each stage); null: the model's own")
    width: int | None = Field(None, ge=1, description="width of the stream (preact_resnet: of its first stage)")
    start: models.Start | None = Field(
        None,
        description="last layer of every branch; torch: as torch draws it; scaled: divided by the root of their "
        "number; zero: zeros",
    )
    shortcut: models.Shortcut | None = Field(
        None,
        description="preact_resnet: where a stage begins; pad: zeros for new channels; orthogonal: a fixed projection "
        "to all",
    )
    head: models.Head | None = Field(
        None, description="preact_resnet: what comes first after the last block; norm: normalisation; pool: the mean"
    )

    @model_validator(mode="after")
    def _options_need_a_model_that_takes_them(self) -> ModelSpec:
        for key in self.options:
            if self.name not in models.OPTIONS[key]:
                raise ValueError(
                    f"model.{key} works only with model {', '.join(models.OPTIONS[key])}, not with {self.name!r}; "
                    "leave it out"
                )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the spec changes in a ready network."""
        return {key: value for key in models.OPTIONS if (value := getattr(self, key)) is not None}


class CodecSpec(_Part):
    """How signals are encoded on the wire."""

    activations: Annotated[str, _part_of(codecs.CODECS, codecs.LOSSLESS, AUTO)] = Field(
        codecs.LOSSLESS,
        description="auto: when a run starts on Ray, pick the fastest codec for its links whose error is at most "
        "that of int8; your own is package.module:name",
    )
    errors: Annotated[str, _part_of(codecs.CODECS, codecs.LOSSLESS, AUTO)] = codecs.LOSSLESS


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(CutConfig):
    """Checkpoints, saved as a run trains, from which it can resume after a failure (distfa train --resume).

    Attributes:
        seconds: Least time between two written checkpoints; 0: write every one.
        keep: How many of the latest checkpoints to keep.
        dir: a directory or an fsspec URL, such as s3://bucket/run; null: checkpoints/ in the run directory.
    """

    seconds: Annotated[float, Ge(0)] = 30.0
    keep: Count = 2
    dir: str | None = None


_GOES_WITH = {  # feedback keys that only some rules take: the trait a rule needs, and why
    "rank": ("takes_rank", ""),
    "decay": ("takes_decay", ", whose feedback learns with a decay of its own"),
    "renew": ("takes_renewal", ", whose feedback comes straight from the output"),
    "fanout": ("takes_fanout", ", which sends every layer the same error"),
}


_DEFAULTS = {field.name: field.default for field in fields(Recipe)}
_MEANINGS = meanings(Recipe)


def _as_in_recipe(name: str) -> Any:
    """A key that is a field of the recipe, which has its default and its meaning."""
    return Field(_DEFAULTS[name], description=_MEANINGS[name])


class RunSpec(_Part):
    """A run. Every key has a default; ``distfa train`` with none trains on handwritten digits."""

    data: Annotated[DataSpec, BeforeValidator(as_named)] = DataSpec()
    model: Annotated[ModelSpec, BeforeValidator(as_named)] = ModelSpec()
    rule: Annotated[str, _part_of(rules.RULES)] = _as_in_recipe("rule")
    init: Annotated[str, _one_of(INITS)] = _as_in_recipe("init")
    distribution: Annotated[str, _one_of(draw.DISTRIBUTIONS)] = _as_in_recipe("distribution")
    feedback: FeedbackConfig = FeedbackConfig()
    loss: Annotated[str, _part_of(losses.LOSSES)] = _as_in_recipe("loss")
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = _as_in_recipe("label_smoothing")
    class_weights: Annotated[tuple[Annotated[float, Ge(0)], ...], BeforeValidator(as_list)] | None = _as_in_recipe(
        "class_weights"
    )
    metrics: Annotated[tuple[Annotated[str, _part_of(METRICS)], ...], BeforeValidator(as_names)] = _as_in_recipe(
        "metrics"
    )
    optimizer: Annotated[OptimizerConfig, BeforeValidator(as_optimizer)] = OptimizerConfig()
    epochs: Count = _as_in_recipe("epochs")
    max_steps: Count | None = _as_in_recipe("max_steps")
    batch_size: Count = _as_in_recipe("batch_size")
    micro_batches: Count = _as_in_recipe("micro_batches")
    schedule: Annotated[str, _one_of(SCHEDULES)] = _as_in_recipe("schedule")
    sync_epochs: Annotated[int, Ge(0)] = _as_in_recipe("sync_epochs")
    eval_every: Count = _as_in_recipe("eval_every")
    log_every: int = Field(10, ge=1, description="steps between records in metrics.jsonl")
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32",
        description="bfloat16 is mixed precision: signals and products in bfloat16, weights, gradients and "
        "optimizer in float32",
    )
    threads: Count = _as_in_recipe("threads")
    seed: Seed = _as_in_recipe("seed")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    check_finite: bool = _as_in_recipe("check_finite")
    codec: Annotated[CodecSpec, BeforeValidator(both_ways)] = CodecSpec()
    engine: Literal["ray", "serial"] = Field("ray", description="serial: one process, the oracle")
    ledger: LedgerConfig = LedgerConfig()
    probe: ProbeConfig = ProbeConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    wire: WireConfig = WireConfig()
    ray: ClusterConfig = ClusterConfig()
    launch: LaunchConfig = LaunchConfig()
    run_dir: str | None = Field(None, description="directory of the run; null: a new one under runs/")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_for_privacy(cls, raw: Any) -> Any:
        return with_private_defaults(raw) if isinstance(raw, Mapping) else raw

    @model_validator(mode="after")
    def _what_is_not_private(self) -> RunSpec:
        refuse_what_is_not_private(self)
        return self

    @model_validator(mode="after")
    def _feedback_needs_a_rule_that_takes_it(self) -> RunSpec:
        asked, rule = {**vars(self.feedback), "renew": self.feedback.renew.on or None}, rules.RULES.known(self.rule)
        for key, (trait, why) in _GOES_WITH.items():
            if asked[key] is not None and rule is not None and not getattr(rule, trait):
                raise ValueError(
                    f"feedback.{key} works only with rule {rules.able(trait)}{why}, not with rule {self.rule!r}; "
                    "leave it out"
                )
        if self.feedback.fanout is not None and self.feedback.rank is not None:
            raise ValueError(
                "feedback.fanout needs full rank, where every layer gets the same error, but feedback.rank is "
                f"{self.feedback.rank}; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _what_only_one_loss_has(self) -> RunSpec:
        if losses.LOSSES.known(self.loss) is not None or self.label_smoothing or self.class_weights is not None:
            losses.find_loss(self.loss, label_smoothing=self.label_smoothing, class_weights=self.class_weights)
        return self

    @model_validator(mode="after")
    def _clipping_must_be_the_same_at_both_ends(self) -> RunSpec:
        rule = rules.RULES.known(self.rule)
        if self.optimizer.clip_norm is not None and rule is not None and not rule.takes_clip_norm:
            raise ValueError(
                f"optimizer.clip_norm scales by the norm of a whole layer, but under rule {self.rule!r} another "
                "layer makes the same update without knowing that norm; use optimizer.clip_value, which both "
                "ends can apply"
            )
        return self

    @model_validator(mode="after")
    def _renewal_needs_full_rank_and_probes(self) -> RunSpec:
        renew = self.feedback.renew
        if not renew.on:
            return self
        if self.feedback.rank is not None:
            raise ValueError(
                f"feedback.renew renews B_l in full, but feedback.rank is {self.feedback.rank}; leave one out"
            )
        least = 1 if self.schedule == "sync" else 2
        if renew.below is not None and self.probe.every < least:
            raise ValueError(
                "feedback.renew.below is compared with what probes measure, but probe.every is "
                f"{self.probe.every}; set it to {least} or more"
            )
        return self

    @model_validator(mode="after")
    def _what_is_left_out_needs_a_codec_that_leaves_it_out(self) -> RunSpec:
        errors = self.codec.errors
        codec = codecs.FP32 if errors in (codecs.LOSSLESS, AUTO) else codecs.CODECS.known(errors)
        if self.feedback.active_only and codec is not None and codec.fixed_length:
            raise ValueError(
                f"feedback.active_only replaces errors with zeros, but codec.errors is {self.codec.errors!r}, "
                "which sends zeros in full; set codec.errors to packed, or to a name with +zstd"
            )
        return self

    @model_validator(mode="after")
    def _async_needs_micro_batches(self) -> RunSpec:
        if self.schedule == "async" and min(self.micro_batches, self.batch_size) < 2:
            raise ValueError(
                "schedule is 'async' but a step has one micro-batch, so nothing can overlap; set micro_batches "
                "to 2 or more (and batch_size no less), or schedule: sync"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """The keys that decide the trained weights and what is reported of them, with their values."""
        plain = {"run_dir", "launch", "wire", "engine", "device", "log_every"}
        partly: dict[str, Any] = {"checkpoint": _BESIDE_CUTS, "ray": _BESIDE_REPLICAS, "privacy": {"key"}}
        return self.model_dump(mode="json", exclude={**dict.fromkeys(plain, True), **partly})

    def recipe(
        self, network: Network, *, audit_rows: int = 0, batches: Batches | None = None, shards: tuple[int, ...] = ()
    ) -> Recipe:
        """Everything that determines the weights, for a network; ``batches`` are those of a loader."""
        shared = {name: getattr(self, name) for name in _OF_RECIPE}
        cuts = CutConfig(every=self.checkpoint.every, at_evaluation=self.checkpoint.at_evaluation)
        return Recipe(
            **shared,
            network=network,
            cuts=cuts,
            replicas=self.ray.replicas,
            dtype=torch.float64 if self.dtype == "float64" else torch.float32,
            mixed=self.dtype == "bfloat16",
            order=self.data.order,
            batches=batches,
            shards=shards,
            window=self.data.window,
            audit_rows=audit_rows,
        )

    def job(
        self,
        network: Network,
        *,
        run_id: str,
        train_rows: int,
        test_rows: int,
        audit_rows: int = 0,
        batches: Batches | None = None,
        shards: tuple[int, ...] = (),
    ) -> Job:
        """The settings that every layer gets."""
        return Job(
            run_id=run_id,
            recipe=self.recipe(network, audit_rows=audit_rows, batches=batches, shards=shards),
            wire=self.wire,
            activation_codec=self.codec.activations,
            error_codec=self.codec.errors,
            train_rows=train_rows,
            test_rows=test_rows,
            device=self.device,
        )


_OF_RECIPE = RunSpec.model_fields.keys() & _DEFAULTS.keys() - {"dtype"}
