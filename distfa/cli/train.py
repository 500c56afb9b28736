"""``distfa train``: train a network, each layer in its own actor."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distfa.bench.options import flags, option, option_class
from distfa.cli.flags import parameter, parameters, with_parameters
from distfa.errors import DistfaError, SpecError
from distfa.text.words import pluralize

if TYPE_CHECKING:
    from distfa.settings import RunSpec

_run, _model, _how = (partial(option, None, panel=panel) for panel in ("Run", "Network and data", "Training"))


@option_class
class TrainOptions:
    """The flags of the command; most set a key of the spec."""

    data: str | None = _model(
        "digits (default), stdlib (characters of Python's own library; neither needs a file), mnist, "
        "fashion_mnist, cifar10, cifar100, npz, hub or shards.",
        "data.name",
    )
    data_dir: str | None = _model(
        "Directory with the official files, an .npz file, or a folder or URL with shards.", "data.dir"
    )
    model: str | None = _model(
        "mlp (default), residual_mlp, lenet, convnet, resnet20, preact_resnet, transformer, or "
        "package.module:function for a function that returns your own nn.Module.",
        "model.name",
    )
    hidden: str | None = _model(
        "mlp only: widths of the hidden layers, also as NxN; '' for none.", "model.hidden", metavar="N,N,..."
    )
    rule: str | None = _how(
        "Feedback rule: dfa (default), fa, bp (the baseline), ...; 'distfa rules' lists them; your own: module:name.",
        "rule",
    )
    init: str | None = _how(
        "aligned (default): feedback starts from the weights; random: the classical setting.", "init"
    )
    epochs: int | None = _how("Passes over the training set.", "epochs")
    batch_size: int | None = _how("Samples per step.", "batch_size")
    micro_batches: int | None = _how(
        "Parts a batch is split into, so that layers can work at the same time.", "micro_batches"
    )
    schedule: str | None = _how(
        "sync (default), or async: the next step's forward passes start while errors are still in transit; "
        "needs --micro-batches 2 or more.",
        "schedule",
    )
    optimizer: str | None = _how("sgd, adam (default) or adamw.", "optimizer.name")
    lr: float | None = _how("Learning rate.", "optimizer.lr")
    seed: int | None = _how("Seed of weights, feedback and data order.", "seed")
    engine: str | None = _run("ray (default), or serial: the same bits in one process, without Ray.", "engine")
    address: str | None = _run(
        "Ray cluster to attach to, host:port or auto; if not given, the one that RAY_ADDRESS names, or else "
        "a new one started here.",
        "ray.address",
    )
    workers: str | None = _run(
        "How many processes host the layers, several adjacent ones each; auto: as many as there are processors or "
        "GPUs. By default each layer has its own. Results do not depend on it.",
        "ray.workers",
        metavar="N|auto",
    )
    insecure: bool = option(
        False, "Use plain text between machines; by default, runs across machines use mutual TLS.", panel="Run"
    )
    run_dir: str | None = _run("Directory for the run; default: a new one under runs/.", "run_dir")
    resume: Path | None = _run(
        "Continue a run that ended early from its last checkpoint, on this or another cluster; takes only "
        "options that do not change the weights (--engine, --address, --set ray.*).",
        metavar="RUN_DIR",
    )
    changes: list[str] | None = _run(
        "Any key of the spec, e.g. --set codec.activations=int8; may be repeated.", name="--set", metavar="KEY=VALUE"
    )
    as_json: bool = option(False, "Print one JSON object on stdout at the end.", name="--json", panel="Run")


def _train(spec_path: Path | None, **typed: Any) -> None:
    """Train a network, each layer in its own actor.

    Without options: handwritten digits, a 64-128-128-10 network, rule dfa. Flags and --set override the spec file.
    Shows progress on stderr and, at the end, the result, the bytes sent over each boundary, and what bp would have
    sent.
    """
    from distfa import settings as specs

    if typed["hidden"] is not None and not typed["hidden"].strip():
        typed["hidden"] = []  # no hidden layer; the spec parses anything else
    given = [(flag.key, typed[name]) for name, flag in flags(TrainOptions).items() if flag.key]
    given += [("wire.security", "insecure" if typed["insecure"] else None)]
    changes = [(key, value) for key, value in given if value is not None]
    changes += map(specs.parse_change, typed["changes"] or [])
    train_spec(spec_path, changes, resume=typed["resume"], as_json=typed["as_json"])


_SPEC = typer.Argument(metavar="[SPEC]", help="YAML run spec; 'distfa spec' prints one with every key.")
train = with_parameters(_train, [parameter("spec_path", Path | None, None, _SPEC), *parameters(TrainOptions)])


def train_spec(
    path: Path | None, changes: Sequence[tuple[str, Any]], *, resume: Path | None = None, as_json: bool = False
) -> None:
    """Train a spec with changes, and print the result; ``resume`` is the directory of a run to continue instead."""
    from distfa import settings as specs

    began: list[tuple[str, Any]] = []
    if resume is not None:
        path, began = _began_with(resume, path, dict(changes).get("run_dir"))
    _run_and_tell(specs.load_spec(path, [*began, *changes]), as_json=as_json, resume=resume)


def _began_with(resume: Path, spec_path: Path | None, run_dir: str | None) -> tuple[Path, list[tuple[str, Any]]]:
    """The spec of the run being resumed, and what its relative paths mean now."""
    from distfa.own import finding
    from distfa.run.disk import run_dir as run_dirs

    if spec_path is not None or run_dir is not None:
        raise SpecError(
            f"--resume {resume} continues that run with its own spec in its own directory; leave out "
            + (f"the spec {spec_path}" if spec_path else f"--run-dir {run_dir}")
        )
    where = run_dirs.expand_path(resume)
    about = run_dirs.read_about(where)
    finding.also_look_in(about.get("folder") or "")
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
    with redirect_stdout(io.StringIO()), ProgressBar(_describe_start(spec, len(network)), warns=warns) as bar:
        model, division = subject.model, subject.division
        result, _ = run(spec, network, dataset, model=model, division=division, observer=bar, resume=resume)
    result_table(result, stderr=as_json)
    if as_json:
        typer.echo(strict_json.dumps(result.as_dict()))
    if result.exploded:
        raise DistfaError(
            f"the run ended with an exploded loss, {result.train_loss:.3g}: its weights are useless; see above "
            "for what to try"
        )


def _describe_start(spec: RunSpec, layers: int) -> str:
    what, workers = pluralize(layers, "layer"), spec.ray.workers
    if spec.engine == "serial":
        return f"training {what} in this process"
    if spec.ray.replicas > 1:
        what = f"{spec.ray.replicas} replicas of {what}"
    if workers is None or workers == "auto":
        return f"starting {what} on Ray" + (", a worker for each processor or GPU" if workers else "")
    count = (workers if isinstance(workers, int) else len(workers)) * spec.ray.replicas
    return f"starting {what} in {pluralize(count, 'worker')} on Ray"
