"""One run from a spec to a result: checks, then the engine, the run directory, the weights."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from distfa.core.base.model import Network
from distfa.core.blame import explain_memory_error
from distfa.data import Dataset
from distfa.data.stream import KEPT
from distfa.errors import DistfaError, Interrupted, NonFiniteError, SpecError
from distfa.intake.checks import check_run
from distfa.intake.from_python import how_to_go_on
from distfa.intake.private import make_private
from distfa.intake.rehearsal import rehearse
from distfa.intake.subject import Subject
from distfa.own.parts import digests, short
from distfa.run import notes, secrecy
from distfa.run.collapse import lower_rate
from distfa.run.disk import run_dir as run_dirs
from distfa.run.disk import run_log
from distfa.run.disk.kept_order import save_order
from distfa.run.loop import Loop
from distfa.run.observing import Observer, StatefulObserver
from distfa.run.result import Result
from distfa.runtime.faults import PlannedFault
from distfa.sections.division import Division
from distfa.settings import RunSpec, dump_spec


def run(
    spec: RunSpec,
    network: Network,
    dataset: Dataset,
    *,
    model: nn.Module | None = None,
    division: Division | None = None,
    observer: Observer = lambda progress: None,
    resume: Path | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
    faults: Sequence[PlannedFault] = (),
) -> tuple[Result, dict[str, Tensor]]:
    """Carry out a run.

    Args:
        spec: What to do.
        network: What to train.
        dataset: What to train on.
        model: The module that the network describes. Its layers start from it; in a network of plain layers only with
            ``init: given``. The module is not changed.
        division: How the layers are laid over the module, if it is no Sequential or not divided in the usual way.
        observer: Called as the run trains.
        resume: A run directory: that run continues from its last checkpoint, or from the start if it has written none.
        about: What else run.json says of it from the start.
        faults: Faults that are caused in its layers on purpose, in order of steps.

    Returns:
        The result, and the weights under the keys of the user's model.

    Raises:
        DistfaError: Nothing was started (exit code 2), or the run failed, and the metrics so far are kept.
    """
    subject = Subject(network=network, model=model, division=division)
    check_run(spec, subject, dataset)
    if spec.metrics and not len(dataset.test_x):
        raise SpecError(f"metrics are figures of a test set, but data set {dataset.name!r} has none; leave metrics out")
    private = make_private(spec, subject, dataset, secrecy.find_key(spec, resume)) if spec.privacy.on else None
    dataset = dataset if private is None else private.dataset
    job = spec.job(
        network,
        run_id=uuid.uuid4().hex,
        train_rows=dataset.epoch_rows,
        test_rows=len(dataset.test_x),
        audit_rows=0 if model is None else KEPT,
        batches=None if dataset.order is None else dataset.order.batches,
        shards=dataset.shards,
    )
    if private is not None:
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, private=private.mechanism))
        identity = {**notes.identify_run(spec, job, dataset), "start": subject.weights_digest()}
        about = {**about, **secrecy.about_key(private.key, spec, identity, job.run_id)}
        if resume is not None:
            secrecy.require_same(private.key, spec, identity, resume)
    rehearse(job.recipe, subject, train_rows=job.train_rows, test_rows=job.test_rows)
    said = {**about, "run_id": job.run_id, "start": subject.start_digest(spec), "own": digests(job.own_parts())}
    run_dir = _created(spec, network, dataset, said) if resume is None else run_dirs.RunDir.reopen(resume)
    job = dataclasses.replace(job, run_id=run_dir.about["run_id"])
    with run_log.write_run_log(run_dir.path.absolute() / run_dirs.LOG, job.run_id):
        try:
            if resume is None and dataset.sampled is not None:
                save_order(run_dir.path, dataset.sampled)
            if resume is None and private is not None:
                secrecy.keep_key(private.key, run_dir)
            resumed = resume is not None
            loop = Loop(spec, job, subject, dataset, run_dir, observer, faults, resumed=resumed, private=private)
        except BaseException:
            run_dir.give_back()
            raise
        try:
            weights = loop.train()
            if loop.stop is None:  # the layers make the audit after the last step only
                subject.audit(job.recipe, dataset, weights, loop.books.tally.audit)
            return _finished(loop, run_dir, weights, observer)
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # Ray turns SIGTERM into SystemExit
            raise _failed(exc, loop, run_dir, spec, resumed=resume is not None) from exc


def _finished(
    loop: Loop, run_dir: run_dirs.RunDir, weights: dict[str, Tensor], observer: Observer
) -> tuple[Result, dict[str, Tensor]]:
    """The result and the weights of a run that ended well, which are also kept in its directory."""
    result, kept, last = loop.books.result(loop.stop), weights, None
    choice = observer.choose(weights) if isinstance(observer, StatefulObserver) else None
    if choice is not None:
        result, kept = choice.apply_to(result), dict(choice.weights)
        last = weights if choice.about["step"] != result.steps else None
    run_dir.finish(kept, result.as_dict(), last=last)
    loop.books.log("the run has finished")
    return result, kept


def _failed(exc: BaseException, loop: Loop, run_dir: run_dirs.RunDir, spec: RunSpec, *, resumed: bool) -> Exception:
    """The error of a run that ended early, with what is kept and how to resume; also written to its directory."""
    done = loop.books.tally.steps
    failure = exc if isinstance(exc, Exception) else Interrupted(f"interrupted after {done} steps")
    weights = failure.weights if isinstance(failure, Interrupted) else None
    if (said := explain_memory_error(exc)) is not None:
        failure = DistfaError(said)
    if isinstance(failure, NonFiniteError):
        rate = spec.optimizer.lr
        failure = NonFiniteError(
            f"{failure} (optimizer.lr is {rate:g}; try {lower_rate(rate, spec.optimizer.name):.1g} or less)"
        )
    status = "interrupted" if isinstance(failure, Interrupted) else "failed"
    kept = loop.checkpoints.last_step()
    loop.books.log(f"the run has {status if status == 'failed' else 'been interrupted'}: {failure}", logging.ERROR)
    run_dir.fail(status, str(failure), keep=done > 0 or kept is not None or resumed, weights=weights)
    if isinstance(failure, DistfaError) and done:
        where = f"\n  the metrics of {done} steps are in {run_dir.path}"
        failure = type(failure)(f"{failure}{where}{_advice(kept, run_dir, spec)}")
    if isinstance(failure, Interrupted):
        failure.weights = weights
    return failure


def _created(spec: RunSpec, network: Network, dataset: Dataset, about: dict[str, Any]) -> run_dirs.RunDir:
    """A new run directory."""
    about |= {
        "seed": spec.seed,
        "data": dataset.name,
        "data_digest": dataset.digest,
        "data_source": dataset.source,
        "inputs": dataset.reading.as_dict(),
    }
    return run_dirs.RunDir.create(
        spec.run_dir,
        name=f"{short(spec.rule)}-{spec.data.name}",
        spec_text=dump_spec(spec, kept=True),
        network=network,
        about=about,
    )


def _advice(kept: int | None, run_dir: run_dirs.RunDir, spec: RunSpec) -> str:
    if kept is None:
        return ""
    how = how_to_go_on(run_dir.path, spec.model.name, spec.data.name)
    return f"\n  its last checkpoint is from step {kept}; to resume from there: {how}"
