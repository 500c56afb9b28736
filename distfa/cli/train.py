"""``distfa train``: train a network, each layer in its own actor."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distfa.cli import options
from distfa.errors import DistfaError, SpecError
from distfa.text.words import pluralize

if TYPE_CHECKING:
    from distfa.settings import RunSpec

_MODEL = "Network and data"
_run, _model, _how = options.panel("Run"), options.panel(_MODEL), options.panel("Training")

SpecPath = Annotated[
    Path | None, typer.Argument(metavar="[SPEC]", help="YAML run spec; 'distfa spec' prints one with every key.")
]
Model = Annotated[
    str | None,
    _model(
        help="mlp (default), residual_mlp, lenet, convnet, resnet20, transformer, or package.module:function for a "
        "function that returns your own nn.Sequential."
    ),
]
Hidden = Annotated[
    str | None, _model(metavar="N,N,...", help="mlp only: widths of the hidden layers, also as NxN; '' for none.")
]
Rule = Annotated[
    str | None, _how(help="Feedback rule: dfa (default), fa, bp (the baseline), ...; 'distfa rules' lists them.")
]
Init = Annotated[
    str | None, _how(help="aligned (default): feedback starts from the weights; random: the classical setting.")
]
MicroBatches = Annotated[
    int | None, _how(help="Parts a batch is split into, so that layers can work at the same time.")
]
Schedule = Annotated[
    str | None,
    _how(
        help="sync (default), or async: the next step's forward passes start while errors are still in transit; "
        "needs --micro-batches 2 or more."
    ),
]
Optimizer = Annotated[str | None, _how(help="sgd, adam (default) or adamw.")]
Engine = Annotated[str | None, _run(help="ray (default), or serial: the same bits in one process, without Ray.")]
Address = Annotated[
    str | None,
    _run(
        help="Ray cluster to attach to, host:port or auto; if not given, the one that RAY_ADDRESS names, or else "
        "a new one started here."
    ),
]
Insecure = Annotated[
    bool, _run("--insecure", help="Use plain text between machines; by default, runs across machines use mutual TLS.")
]
Resume = Annotated[
    Path | None,
    _run(
        metavar="RUN_DIR",
        help="Continue a run that ended early from its last checkpoint, on this or another cluster; takes only "
        "options that do not change the weights (--engine, --address, --set ray.*).",
    ),
]
Changes = Annotated[
    list[str] | None,
    _run("--set", metavar="KEY=VALUE", help="Any key of the spec, e.g. --set codec.activations=int8; may be repeated."),
]


def train(
    spec_path: SpecPath = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits (default), stdlib (characters of Python's own library; neither needs a file), mnist, "
            "fashion_mnist, cifar10, cifar100, npz or hub.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Directory with the official files, or an .npz file.", rich_help_panel=_MODEL)
    ] = None,
    model: Model = None,
    hidden: Hidden = None,
    rule: Rule = None,
    init: Init = None,
    epochs: Annotated[int | None, _how(help="Passes over the training set.")] = None,
    batch_size: Annotated[int | None, _how(help="Samples per step.")] = None,
    micro_batches: MicroBatches = None,
    schedule: Schedule = None,
    optimizer: Optimizer = None,
    lr: Annotated[float | None, _how(help="Learning rate.")] = None,
    seed: Annotated[int | None, _how(help="Seed of weights, feedback and data order.")] = None,
    engine: Engine = None,
    address: Address = None,
    insecure: Insecure = False,
    run_dir: Annotated[str | None, _run(help="Directory for the run; default: a new one under runs/.")] = None,
    resume: Resume = None,
    changes: Changes = None,
    as_json: Annotated[bool, _run("--json", help="Print one JSON object on stdout at the end.")] = False,
) -> None:
    """Train a network, each layer in its own actor.

    Without options: handwritten digits, a 64-128-128-10 network, rule dfa. Flags and --set override the spec file.
    Shows progress on stderr and, at the end, the result, the bytes sent over each boundary, and what bp would have
    sent.
    """
    from distfa import settings as specs

    flags = {
        "data.name": data,
        "data.dir": data_dir,
        "model.name": model,
        "model.hidden": _widths(hidden),
        "rule": rule,
        "init": init,
        "epochs": epochs,
        "batch_size": batch_size,
        "micro_batches": micro_batches,
        "schedule": schedule,
        "optimizer.name": optimizer,
        "optimizer.lr": lr,
        "seed": seed,
        "engine": engine,
        "ray.address": address,
        "wire.security": "insecure" if insecure else None,
        "run_dir": run_dir,
    }
    given: list[tuple[str, Any]] = [(key, value) for key, value in flags.items() if value is not None]
    began: list[tuple[str, Any]] = []
    if resume is not None:
        spec_path, began = _began_with(resume, spec_path, run_dir)
    spec = specs.load_spec(spec_path, [*began, *given, *(specs.parse_change(change) for change in changes or [])])
    _run_and_tell(spec, as_json=as_json, resume=resume)


def _began_with(resume: Path, spec_path: Path | None, run_dir: str | None) -> tuple[Path, list[tuple[str, Any]]]:
    """The spec of the run being resumed, and what its relative paths mean now."""
    from distfa.models import user
    from distfa.run.disk import run_dir as run_dirs

    if spec_path is not None or run_dir is not None:
        raise SpecError(
            f"--resume {resume} continues that run with its own spec in its own directory; leave out "
            + (f"the spec {spec_path}" if spec_path else f"--run-dir {run_dir}")
        )
    where = run_dirs.expand_path(resume)
    about = run_dirs.read_about(where)
    user.also_look_in(about.get("folder") or "")
    directory = run_dirs.read_spec(where, about).data.dir
    return where / run_dirs.SPEC, [] if directory is None else [("data.dir", directory)]


def _run_and_tell(spec: RunSpec, *, as_json: bool, resume: Path | None) -> None:
    from distfa.cli.result import result_table
    from distfa.intake.from_python import require_from_spec
    from distfa.intake.subject import subject_for
    from distfa.run.progress import ProgressBar
    from distfa.run.run import run
    from distfa.text import strict_json

    require_from_spec(spec, resume=resume)
    dataset = spec.data.load()
    subject = subject_for(spec, dataset)
    network = subject.network
    warns = spec.ledger.on_violation == "warn"
    # Ray prints its own report of a dead worker on stdout, which is for the result; distfa's message is enough.
    with redirect_stdout(io.StringIO()), ProgressBar(_describe_start(spec.engine, len(network)), warns=warns) as bar:
        result, _ = run(spec, network, dataset, model=subject.model, observer=bar, resume=resume)
    result_table(result, stderr=as_json)
    if as_json:
        typer.echo(strict_json.dumps(result.as_dict()))
    if result.exploded:
        raise DistfaError(
            f"the run ended with an exploded loss, {result.train_loss:.3g}: its weights are useless; see above "
            "for what to try"
        )


def _describe_start(engine: str, layers: int) -> str:
    what = pluralize(layers, "layer")
    return f"training {what} in this process" if engine == "serial" else f"starting {what} on Ray"


def _widths(text: str | None) -> list[int] | str | None:
    """No widths for empty text; the spec parses anything else."""
    return None if text is None else [] if not text.strip() else text
