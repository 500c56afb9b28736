"""The options of ``distfa bench comm``; loads no torch, like ``bench.options``."""

from __future__ import annotations

from functools import partial

from distfa.bench.options import AS_FOR_TRAIN, WIDTHS, Numbers, Options, Words, option, option_class

_task, _what = partial(option, panel="Task"), partial(option, panel="What to measure")
_search = partial(option, panel="Each rule with its best settings")


@option_class
class CommOptions(Options):
    """Measure bytes per step, and bytes and time to reach a target accuracy over slow links, compared with torch's
    pipelines.

    Every layer is on its own node, a network namespace with a link of --mbit; distfa runs there on a Ray cluster. Equal
    codecs and equal accuracy have separate columns. With --rates and --decays, it first searches for the best settings
    of every rule, including bp; the report includes the search.
    """

    data: str = _task("digits", AS_FOR_TRAIN, "data.name")
    data_dir: str | None = _task(None, AS_FOR_TRAIN, "data.dir")
    model: str = _task("mlp", AS_FOR_TRAIN, "model.name")
    hidden: Numbers = _task((1024, 1024, 1024), WIDTHS, "model.hidden")
    batch_size: int = _task(256, "Samples per step.", "batch_size")
    micro_batches: int = _task(4, "Parts a batch is split into, for distfa and for torch.", "micro_batches")
    optimizer: str = _task("adam", "sgd, adam or adamw.", "optimizer.name")
    lr: float = _task(3e-4, "Learning rate.", "optimizer.lr")
    lr_schedule: str = _task("constant", "constant, or linear or cosine to 0 over --max-steps.", "optimizer.schedule")
    seed: int = _task(0, "Seed of weights, feedback and data order.", "seed")
    rules: Words = _what(
        ("fa", "dfa"), "Rules to compare with bp; dkp@50 is dkp renewed every 50 steps.", metavar="RULE,RULE,..."
    )
    codecs: Words = _what(
        ("int8",),
        "Codecs to compare with lossless: for activations, and for errors if they differ.",
        metavar="UP[/DOWN],...",
    )
    target: float = _what(97.5, "Target test accuracy, in percent.")
    max_steps: int = _what(2000, "Give up on the target after this many steps.", "max_steps")
    eval_steps: int = _what(50, "Steps between evaluations.", min=1)
    rates: tuple[float, ...] = _search(
        (), "Learning rates to try for every rule, instead of --lr.", metavar="RATE,RATE,..."
    )
    decays: Numbers = _search((), "Lengths of cosine decay to try, in steps, instead of --lr-schedule and --max-steps.")
    seeds: int = _search(
        1, "Number of seeds to compare; figures are medians, with the smallest and the largest.", min=1
    )
    mbit: float = _what(
        200.0,
        "Rate of every layer's link, in each direction, using network namespaces (Linux, root); 0: no links, count "
        "bytes only.",
        min=0,
    )
    delay_ms: float = _what(
        0.0,
        "Delay added to every distfa message, in ms, as on a long link; leaves out torch's pipelines.",
        "wire.delay_ms",
        min=0,
        max=1000,
    )
    link_steps: int = _what(60, "Steps over the link per configuration.", min=1)
    warmup: int = _what(5, "Warm-up steps that are not measured.", min=1)
    insecure: bool = _what(False, "Use plain text over the links, as torch does, instead of TLS.")

    @property
    def share(self) -> float:
        """The target as a share, 0 to 1."""
        return self.target / 100

    @property
    def candidates(self) -> int:
        """How many settings are tried for each rule and codec; 0 if nothing is tuned."""
        return len(self.rates) * len(self.decays)
