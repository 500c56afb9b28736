"""The options of each benchmark: the fields of a dataclass are its flags, the docstring is its help.

Nothing here loads torch, since ``distfa --help`` reads all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from distfa.errors import UsageError
from distfa.text.words import not_among

if TYPE_CHECKING:
    from distfa.settings import RunSpec

T = TypeVar("T")
Words = tuple[str, ...]
Numbers = tuple[int, ...]
AS_FOR_TRAIN = "As for 'distfa train'."
WIDTHS = "Widths of the hidden layers."


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a field is typed on the command line.

    Attributes:
        help: Its help text.
        key: The key of the run spec that it sets; empty if it sets none.
        name: The flag, if it is not the field's name.
        panel: The heading under which the help shows it.
        metavar: What the help shows in place of its value; N,N,... for numbers if it is not given.
        min: The least value.
        max: The greatest value.
        needed: Whether a list must not be empty.
        outcome: Whether it is a file to write, which must be possible before the work begins.
    """

    help: str
    key: str = ""
    name: str = ""
    panel: str | None = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    needed: bool = False
    outcome: bool = False


def option(default: Any, help: str, key: str = "", **how: Any) -> Any:
    """A field of a dataclass that is a flag of a command; ``how`` are the other attributes of ``Flag``."""
    return field(default=default, metadata={"flag": Flag(help=help, key=key, **how)})


def flags(options: object) -> dict[str, Flag]:
    """The flags of a dataclass of options, or of one of its instances, by field."""
    return {one.name: one.metadata["flag"] for one in fields(options) if one.metadata}  # type: ignore[arg-type]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, option))
def option_class(cls: type[T]) -> type[T]:
    """A frozen dataclass of options, which cannot be compared or printed: every start of the command pays for that."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)


@option_class
class Options:
    """The options of a benchmark.

    Attributes:
        changes: Further keys of the spec, for callers from Python; not a flag.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, fixed: Mapping[str, Any]) -> RunSpec:
        """The spec of the benchmark's task: what is fixed, and the options that set a key.

        Raises:
            SpecError: A value breaks a rule of the spec.
        """
        from distfa import settings

        keys = {flag.key: getattr(self, name) for name, flag in flags(self).items() if flag.key}
        return settings.load_spec(None, [*{**keys, **fixed, **self.changes}.items()])

    def as_dict(self) -> dict[str, Any]:
        """The options as given, by field."""
        return {name: getattr(self, name) for name in flags(self)}


def among(flag: str, given: Collection[str], names: Iterable[str]) -> None:
    """Refuse words that do not exist.

    Raises:
        UsageError: One is not one of ``names``; the message gives the nearest. Or there are none.
    """
    names = list(names)
    for word in given:
        if word not in names:
            raise UsageError(f"{flag}: {word!r} {not_among(word, names)}")
    if not given:
        raise UsageError(f"{flag} is ''; it takes {', '.join(names)}, separated by commas")


_rules, _pairs = partial(option, metavar="RULE,RULE,..."), partial(option, metavar="UP[/DOWN],...")


@option_class
class _OnData(Options):
    """Options of benchmarks that train a perceptron on a data set."""

    data: str = option("digits", AS_FOR_TRAIN, "data.name")
    data_dir: str | None = option(None, AS_FOR_TRAIN, "data.dir")


_who, _task = partial(option, panel="What to compare"), partial(option, panel="The task")
_how = partial(option, panel="How it is measured")


@option_class
class SpeedOptions(Options):
    """Compare the speed of distfa with torch in one process and torch's pipelines, on the same task.

    All use the same network, weights, samples and order. Every configuration is measured in every round, in shuffled
    order, in its steady state. With the defaults this takes about 40 minutes on 2 cores.
    """

    rules: Words = _who(("bp", "fa", "dfa"), "distfa's rules to compare; 'distfa rules' lists them.", metavar="R,R,...")
    schedules: Words = _who(("sync", "async"), "distfa's schedules to compare: sync, async.", metavar="S,S,...")
    workers: Numbers = _who((), "Numbers of distfa's workers, each with a share of the cores; none: a layer each.")
    processes: Numbers = _who((2, 4), "Numbers of processes for torch's pipelines; '' for none.")
    micro_batches: Numbers = _who(
        (1, 2, 4, 8), "Micro-batch counts to try; each contender is measured with its best.", needed=True
    )
    model: str = _task("mlp", "As for 'distfa train'; any model but mlp needs --data.", "model.name")
    hidden: Numbers = _task((1024, 1024, 1024), WIDTHS, "model.hidden")
    batch_size: int = _task(256, "Samples per step.", "batch_size", min=1)
    lr: float = _task(0.01, "Learning rate of SGD.", "optimizer.lr")
    fold: bool = _task(False, "Use distfa's optimizer.fold.", "optimizer.fold")
    dtype: str = _task(
        "float32", "float32, float64, or bfloat16 (mixed precision; in torch's engines, autocast).", "dtype"
    )
    data: str | None = _task(
        None, "Data set, as for 'distfa train'; default: random numbers of MNIST's shape.", "data.name"
    )
    data_dir: str | None = _task(None, "Directory of the data set.", "data.dir")
    seed: int = _task(0, "Seed of weights, feedback and data.", "seed", min=0)
    steps: int = _how(100, "Steps per measurement.", min=1)
    warmup: int = _how(20, "Warm-up steps that are not measured.", min=1)
    rounds: int = _how(5, "Measurements of each.", min=1)
    books_every: int = _how(0, "Steps between distfa's ledger entries and probes; 0: none.", min=0)
    deadline_seconds: float = _how(300.0, "Longest time for one measurement of torch, in seconds.", name="--deadline")


@option_class
class ScaleOptions(Options):
    """Measure what a step, its messages and a layer's process cost as layers are added.

    Runs have 2 to 32 layer actors of equal width; overhead is what a layer costs beyond its arithmetic in a single
    process without a wire. With the defaults this takes about 20 minutes on 2 cores.
    """

    layers: Numbers = _task((2, 4, 8, 16, 32), "Layer counts to measure.", needed=True)
    micro_batches: Numbers = _task((1, 4), "Parts a batch is split into.", needed=True)
    width: int = _task(256, "Width of every layer.", min=1)
    rule: str = _task("dfa", "Feedback rule.", "rule")
    schedule: str = _task("sync", "sync, or async with 2 or more micro-batches.", "schedule")
    batch_size: int = _task(256, "Samples per step.", "batch_size", min=1)
    seed: int = _task(0, "Seed of weights, feedback and data.", "seed", min=0)
    steps: int = _how(200, "Steps measured with the most layers; with fewer layers, more steps.", min=1)
    warmup: int = _how(20, "Warm-up steps that are not measured.", min=1)
    rounds: int = _how(3, "Measurements of each.", min=1)
    startup_seconds: float = _how(
        300.0, "Seconds that the layers of one run may take to start.", "ray.startup_seconds", name="--startup"
    )


@option_class
class _Trained(_OnData):
    """Options of benchmarks that train any model to its end, once per seed."""

    model: str = option("mlp", AS_FOR_TRAIN, "model.name")
    hidden: Numbers = option((128, 128), WIDTHS, "model.hidden")
    epochs: int = option(20, "Passes over the training set.", "epochs")
    batch_size: int = option(32, "Samples per step.", "batch_size")
    optimizer: str = option("adam", "sgd, adam or adamw.", "optimizer.name")
    lr: float = option(1e-3, "Learning rate.", "optimizer.lr")
    lr_schedule: str = option("constant", "constant, or linear or cosine to 0 over all steps.", "optimizer.schedule")
    seeds: int = option(1, "Runs per row; the table shows means, and the standard deviation of the accuracy.", min=1)


@option_class
class RulesOptions(_Trained):
    """Measure accuracy, alignment, angle, bytes and ledger of every rule, aligned and random, compared with bp.

    Bytes per sample are exact payload bytes computed from each rule's widths: what a run on Ray counts.
    """

    max_steps: int | None = option(None, "Stop after this many steps.", "max_steps", min=1)
    limit: int | None = option(None, "Use only the first samples of each split.", "data.limit", min=1)
    rules: Words = _rules((), "Rules to train; dkp@50 is dkp renewed every 50 steps; default: all.")
    inits: Words = option(
        ("aligned", "random"),
        "aligned, random, or both, for rules whose feedback depends on the start.",
        metavar="INIT,...",
    )
    torch: bool = option(False, "Also train in plain torch, from the same start, with the same data in the same order.")
    engine: str = option("serial", "serial (the same bits, no Ray) or ray.", "engine")
    device: str = option(
        "auto", "cpu, cuda or auto (on Ray, a GPU if there is one). Does not apply to --torch.", "device"
    )


@option_class
class CodecsOptions(_Trained):
    """Measure accuracy, bytes per sample and codec time of every rule with every pair of codecs, compared with fp32.

    This uses the serial engine, which gives the same bits and payloads as a distributed run.
    """

    hidden: Numbers = option((256, 256, 256), WIDTHS, "model.hidden")
    rules: Words = _rules(("bp", "fa", "dfa"), "Feedback rules.")
    codecs: Words = _pairs(
        (
            *("fp32/fp32", "bf16/bf16", "int8/bf16", "int8/int8", "fp8/fp8"),
            *("int4/int8", "int4/int4", "int4/int4sr", "packed/fp32"),
        ),
        "Codecs to compare with fp32/fp32: for activations, and for errors if they differ.",
    )


@option_class
class BooksOptions(_OnData):
    """Measure the books: their cost, the smallest fault they catch, and drift at several learning rates.

    Cost: processor time with ledger and probes at their default intervals, divided by the time without them. Faults:
    one number in one float32 message is altered by growing amounts, at every boundary, in both directions. Drift:
    full-batch SGD on 500 rows in float64, with three learning rates over equal training time; by the conservation law,
    drift halves with the rate.
    """

    hidden: Numbers = option(
        (1024, 1024, 1024), "Widths of the hidden layers; the drift runs use a sixteenth of each.", "model.hidden"
    )
    batch_size: int = option(256, "Samples per step.", "batch_size")
    steps: int = option(200, "Steps in each run whose cost is measured.", "max_steps")
    rounds: int = option(5, "Pairs of runs, with and without books.")
    rules: Words = option(("dfa", "fa"), "Rules to measure; each must have a potential.", metavar="RULE,...")


_measured = partial(option, panel="The measurement")


@option_class
class _InTurn(_OnData):
    """Options of benchmarks that train under several settings in turn."""

    hidden: Numbers = option((1024, 1024, 1024), WIDTHS, "model.hidden")
    rule: str = _task("dfa", "Feedback rule.", "rule")
    batch_size: int = _task(256, "Samples per step.", "batch_size", min=1)
    epochs: int = _task(50, "Epochs of every run.", "epochs", min=1)
    schedules: Words = _measured(("sync", "async"), "sync, async.", metavar="NAME,...")
    rounds: int = _measured(5, "Measurements of each; the table shows medians.", min=1)


@option_class
class CheckpointsOptions(_InTurn):
    """Train with and without checkpoints, alternately, to see what they cost per step.

    Every snapshot is written: the run waits if the previous one is still being written. With the defaults this takes
    about 8 minutes on 2 cores.
    """

    epochs: int = _task(100, "Epochs of every run.", "epochs", min=1)
    engine: str = _task("ray", "ray or serial.", "engine")
    every: int = _measured(100, "Steps between checkpoints.", min=1)
    rounds: int = _measured(3, "Measurements of each; the table shows medians.", min=1)


@option_class
class TlsOptions(_InTurn):
    """Train over plain text and over mutual TLS, alternately, all on this machine, to see what TLS costs per step.

    With the defaults this takes about 8 minutes on 2 cores.
    """


_faults = partial(option, panel="The faults")


@option_class
class FaultsOptions(_OnData):
    """Kill layers, hang them, cut their links, and check that a run loses nothing.

    Every run must end with the weights, losses and books of the serial engine, bit for bit; otherwise the command
    fails. Shows how soon a fault is detected, how soon training resumes, and what it costs. With the defaults it takes
    about 8 minutes on 2 cores.
    """

    hidden: Numbers = option((256, 256), WIDTHS, "model.hidden")
    rule: str = _task("dfa", "Feedback rule.", "rule")
    epochs: int = _task(20, "Epochs of every run.", "epochs", min=1)
    every: int = _task(20, "Steps between checkpoints.", "checkpoint.every", min=1)
    deadline: float = _task(
        5.0, "wire.deadline_seconds: how long to wait before a layer counts as hung.", "wire.deadline_seconds"
    )
    kinds: Words = _faults(
        ("kill", "hang", "cut"),
        "kill, hang, cut; memory: fill the machine's memory up to RAY_memory_usage_threshold (0.95).",
        metavar="NAME,...",
    )
    schedules: Words = _faults(("sync", "async"), "sync, async.", metavar="NAME,...")
    alone: bool = _faults(
        True, "Also make runs with one fault each, in the first, middle and last layer.", name="--alone/--no-alone"
    )
    soak: int = _faults(5, "Number of faults, of any kind and in any layer, in one more run per schedule.", min=0)
    every_seconds: float = _faults(
        0.0, "Seconds between the faults of that run, until it ends; 0: spread them over its steps.", min=0
    )
    seed: int = _faults(0, "Seed of that run's fault plan.", min=0)
