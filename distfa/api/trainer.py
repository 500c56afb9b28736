"""The Python API: train an ordinary torch module, layer-parallel."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distfa import data
from distfa.api.callbacks import Callback, require_callbacks
from distfa.api.caller import Caller
from distfa.api.fits import Fit, begin_fit, resume_fit
from distfa.api.history import History, columns_of
from distfa.api.metrics import Scores, scores
from distfa.core.base import losses, order
from distfa.core.base.model import Network
from distfa.core.base.samples import Inputs
from distfa.core.base.seeding import Seeding
from distfa.core.modules.admit import admit, is_sequential, require_module
from distfa.core.modules.attributes import Attributes, load_model_state, restore_afterwards
from distfa.data.reading import Reading
from distfa.errors import DataError, Interrupted, RunDirError
from distfa.intake.from_scheduler import has_optimizer, with_scheduler
from distfa.intake.from_torch import is_optimizer_of, optimizer_of, optimizer_settings
from distfa.intake.given import Wish, dataset_of, floats_of
from distfa.intake.layout import layout_of
from distfa.intake.loaders import batch_size_of
from distfa.intake.subject import Subject, subject_of
from distfa.intake.tokens import vocabulary
from distfa.run.disk.kept_order import load_order
from distfa.run.disk.weights import load_reading, load_weights, save_weights
from distfa.run.observing import Observer
from distfa.run.progress import ProgressBar
from distfa.run.result import Result
from distfa.run.run import run
from distfa.sections.division import Division
from distfa.sections.split import split
from distfa.sections.traced import Layers
from distfa.settings import ARRAYS, GIVEN, RunSpec, flat, load_spec, parse_spec
from distfa.text.lines import stderr
from distfa.text.redact import redact_all

log = logging.getLogger(__name__)
_ROWS = 1000  # samples of a prediction at once


class Trainer:
    """Trains a model's layers, each in its own actor.

    Args:
        model: An ``nn.Sequential`` of any modules: a layer is a module with parameters and the modules without
            parameters that follow it. Or any module whose forward torch.fx can trace: layers end where a single tensor
            is passed on. ``distfa.split(model, sample_shape)`` shows the layers. Training starts from the model's
            weights; but the weights of a Sequential of only Linears and activations are drawn from the spec's seed,
            unless ``init`` is ``given``.
        spec: A ``RunSpec``, the path of a YAML spec, or None for the defaults.
        layers: The number of layers (adjacent ones are merged at nearly equal cost), the names of the modules that
            begin a layer, or ``all`` for as many as possible; None: as in the spec. It sets ``model.layers``.
        callbacks: One or several ``distfa.Callback`` objects: ``EarlyStopping()``, ``BestWeights()``, or your own.
        scheduler: Scheduler of the learning rate: one of ``torch.optim.lr_scheduler``, or a function that makes one for
            an optimizer. distfa also has schedules: ``optimizer={"lr": 0.1, "schedule": "cosine", "warmup_steps":
            100}``.
        scheduler_by: ``epoch`` or ``step``: when the scheduler is stepped; None: as its kind is usually stepped.
        verbose: Whether progress is shown on stderr; None: in a terminal or a notebook.
        settings: Keys of the spec, dots written as double underscores: ``optimizer__lr=0.01``; or whole
            parts as dictionaries: ``optimizer={"name": "sgd", "lr": 0.01}``. ``optimizer`` can also be an object of
            ``torch.optim``: then every layer runs one like it.

    Attributes:
        network: The layers; known once ``fit`` or ``load`` has shown the shape of a sample.
        reading: How the first fit read its data: normalisation, columns, classes, layout; None before.
        history: One row per epoch, of all fits.
        result: The result of the last fit.

    Raises:
        ModelError: The model cannot be split into layers, or would be trained as something else.
        SpecError: A key is unknown, or a value breaks a rule.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> trainer = Trainer(model, rule="dfa", epochs=5)
        >>> trainer.fit((x, y), (test_x, test_y))
        >>> trainer.predict(test_x)
    """

    def __init__(
        self,
        model: nn.Module,
        spec: RunSpec | str | Path | None = None,
        *,
        layers: Layers | None = None,
        callbacks: Callback | Sequence[Callback] = (),
        scheduler: Any = None,
        scheduler_by: str | None = None,
        verbose: bool | None = None,
        **settings: Any,
    ) -> None:
        require_module(model)
        self.model = model
        admit(model, Division.usual(model).parts(model) if is_sequential(model) else ())
        self.network: Network | None = None
        self.reading: Reading | None = None
        self.history = History()
        self.result: Result | None = None
        self._callbacks, self._verbose = require_callbacks(callbacks), verbose
        self._scheduler, self._scheduler_by = scheduler, scheduler_by
        says = any(key.partition("__")[0] == "optimizer" for key in settings)
        theirs = scheduler.optimizer if has_optimizer(scheduler) and spec is None and not says else None
        if theirs is not None and not is_optimizer_of(theirs, self.model):
            theirs = None  # made only so that there is a scheduler
        self._optimizer = optimizer_of(settings.get("optimizer", theirs), self.model)
        if self._optimizer is not None:
            settings["optimizer"] = optimizer_settings(self._optimizer, self.model)
        changes = [(key.replace("__", "."), value) for key, value in settings.items()]
        changes += [] if layers is None else [("model.layers", layers)]
        if isinstance(spec, RunSpec):
            self.spec = load_spec(None, [*spec.model_dump().items(), *changes])
            said = spec.model_fields_set | settings.keys()
        else:
            self.spec = load_spec(None if spec is None else Path(spec), changes)
            said = self.spec.model_fields_set
        self._batch_size = self.spec.batch_size if "batch_size" in said else None
        self._start = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self._attributes = Attributes(self.model)
        self._fits = 0

    def fit(
        self,
        train: Any,
        test: Any = None,
        *,
        target: str | None = None,
        normalised: bool | None = None,
        observer: Observer | None = None,
        resume: str | Path | None = None,
    ) -> Result:
        """Train, and load the trained weights and running statistics into the model.

        A second ``fit`` continues from the weights that the first one found, with new optimizers and with feedback that
        starts aligned with these weights (``init: aligned``); ``reset()`` starts from scratch. The first ``fit`` fixes
        how data are read (``reading``: normalisation, columns by name, classes, layout); a later one reads its data so.

        Args:
            train: (x, y) of arrays, tensors or pandas objects; a pandas table or Ray data with ``target``; a torch
                ``Dataset`` or ``DataLoader``, whose samples are made again in every epoch, so that random augmentation
                works (a batch is what the loader makes: its size, sampler and order are those of torch's own loop); any
                iterable of batches, which is read once; a ``distfa.data.Dataset``, or the name of one.
                For a model that begins with a convolution, images with their channels last get them first. For a model
                with an Embedding that reads the samples, integers are tokens. Labels that are text get numbers.
            test: As ``train``; None if ``train`` is a ``distfa.data.Dataset``, or for no evaluation.
            target: The column of a table that is learned.
            normalised: Whether samples are already normalised, where an earlier fit normalised its own; None: decided
                by their values.
            observer: Called with everything that happens as the run trains; ``callbacks`` are simpler.
            resume: The directory of an earlier run of this model on these data that ended early; that run continues
                from its last checkpoint.

        Returns:
            The figures, and where the run is kept.

        Raises:
            DistfaError: Bad input, or the run failed; the model is then as it was.
            KeyboardInterrupt: The user ended it; the model and the run directory then have the weights so far.
        """
        given, begun = (train, test), None if resume is None else Path(resume)
        this = begin_fit(self._fits, given) if begun is None else resume_fit(begun, given, seed=self.spec.seed)
        kept: dict[str, Any] = {} if begun is None else {"reading": load_reading(begun), "sampled": load_order(begun)}
        dataset = self._dataset(train, test, target, normalised=normalised, seed=this.seed(self.spec.seed), **kept)
        batch_size = batch_size_of(train, dataset.order, said=self._batch_size) or self.spec.batch_size
        spec = self._spec_for(dataset, batch_size, this)
        subject = self._subject(spec, dataset, this)
        with self._show_progress(f"starting {len(subject.network)} layers, engine {spec.engine}", observer) as told:
            caller = Caller(
                self._callbacks,
                self.history,
                columns=columns_of(dataset, spec.loss, spec.metrics),
                evaluates_every=spec.eval_every if len(dataset.test_x) else None,
                settings=flat(redact_all(spec.model_dump(mode="json"))),
                observer=told,
            )
            network, model, about = subject.network, subject.model, this.about()
            try:
                self.result, weights = run(
                    spec,
                    network,
                    dataset,
                    model=model,
                    division=subject.division,
                    observer=caller,
                    resume=begun,
                    about=about,
                )
            except Interrupted as exc:
                if exc.weights is not None:
                    self._take(exc.weights, dataset, this.earlier + 1)
                raise KeyboardInterrupt(str(exc)) from exc
        self._take(weights, dataset, this.earlier + 1)
        caller.end()
        return self.result

    def predict(self, x: Any, *, normalised: bool | None = None) -> Tensor:
        """The model's outputs for samples, in evaluation mode: logits for classes, (n, ..., C).

        Samples are read as the first fit read its data: normalised as it did, columns by their names, channels where it
        had them.

        Args:
            x: Samples in any form that ``fit`` takes; targets may be left out, and are not read. Of a data set with a
                test split, that split.
            normalised: Whether the samples are already normalised; None: decided by their values.

        Raises:
            DataError: The samples are not such as the model was trained on, or their numbers do not say whether they
                are normalised.
        """
        dataset = self._dataset(x, None, None, epochs=0, targets=False, normalised=normalised)
        return self._outputs(dataset, dataset.test_x if len(dataset.test_x) else dataset.train_x)

    def evaluate(self, test: Any, *, target: str | None = None, normalised: bool | None = None) -> Scores:
        """Loss and metrics of the model with its current weights.

        Args:
            test: Data in a form that ``fit`` takes, which are read as the first fit read its data: (x, y) and so on. Of
                a data set with a test split, that split.
            target: The column of a table that is learned; None: that of the fit.
            normalised: Whether the samples are already normalised; None: decided by their values.

        Returns:
            Loss, rows, and what suits the targets: accuracy; or mean absolute error, root mean square error and R^2.

        Raises:
            DataError: The data are not such as the model was trained on.
        """
        dataset = self._dataset(test, None, target, epochs=0, normalised=normalised)
        x, y = dataset.test_x, dataset.test_y
        if not len(x):
            x, y = dataset.train_x, dataset.train_y
            if isinstance(test, str | data.Dataset):
                log.warning("data set %r has no test samples: scoring its training samples instead", dataset.name)
        loss = losses.find_loss(
            self.spec.loss, label_smoothing=self.spec.label_smoothing, class_weights=self.spec.class_weights
        )
        targets = torch.tensor(np.asarray(y))
        return scores(self._outputs(dataset, x).cpu(), targets, loss, self.spec.loss, self.spec.metrics)

    def save(self, path: str | Path) -> Path:
        """Save the model's weights and ``reading`` in a safetensors file, written whole or not at all.

        The weights are under the model's keys, the reading is JSON in the file's metadata.
        """
        return save_weights(Path(path), {**self.model.state_dict(), **self._attributes.state("model")}, self.reading)

    def load(self, path: str | Path) -> Trainer:
        """Load the weights of a file that ``save`` wrote, or of a run directory; the next ``fit`` continues from them.

        How their data were read comes with them; a file that does not say it leaves ``reading`` as it is.

        Raises:
            RunDirError: There are none, or they belong to another model.
        """
        weights = load_weights(Path(path))
        self._attributes.restore()
        try:
            load_model_state(self.model, weights)
        except RuntimeError as exc:
            raise RunDirError(f"{path} holds weights of another model: {' '.join(str(exc).split())}") from exc
        self.reading = load_reading(Path(path)) or self.reading
        if self.reading is not None:
            self.network = self._split(self.reading.shape, tokens=self.reading.tokens is not None)
        self._fits = max(self._fits, 1)
        return self

    def reset(self) -> Trainer:
        """Go back to the model as it was given, without history."""
        self.model.load_state_dict(self._start)
        self._attributes.restore()
        self.reading, self.history, self.result, self._fits = None, History(), None, 0
        return self

    # -- parts ----------------------------------------------------------------------------------

    def _take(self, weights: dict[str, Tensor], dataset: data.Dataset, fits: int) -> None:
        load_model_state(self.model, weights)
        self.reading = dataset.reading
        self._fits = fits

    @contextmanager
    def _show_progress(self, start: str, observer: Observer | None) -> Iterator[Observer | None]:
        """The observer of the run, with a progress bar before it if progress is shown."""
        console = stderr()
        shown = console.is_terminal or console.is_jupyter if self._verbose is None else self._verbose
        if not shown:
            yield observer
            return
        with ProgressBar(start) as bar:
            yield bar if observer is None else _both(bar, observer)

    def _subject(self, spec: RunSpec, dataset: data.Dataset, this: Fit) -> Subject:
        """The model, split into layers; a later fit continues from weights that no seed draws."""
        subject = subject_of(self.model, spec, dataset)
        if this.earlier and spec.init != "given":
            subject = dataclasses.replace(subject, network=dataclasses.replace(subject.network, continued=True))
        self.network = subject.network
        return subject

    def _spec_for(self, dataset: data.Dataset, batch_size: int, this: Fit) -> RunSpec:
        """The spec of this fit."""
        described = dict(dataset.loaded) or {"name": ARRAYS}
        described |= {} if dataset.order is None else {"order": "given"}
        raw = {
            **self.spec.model_dump(),
            "data": described,
            "model": {"name": GIVEN, "layers": self.spec.model.layers},
            "batch_size": batch_size,
        }
        raw["checkpoint"] |= {"at_evaluation": True}
        if this.earlier:
            raw["seed"] = this.seed(self.spec.seed)
            raw["run_dir"] = self.spec.run_dir and f"{self.spec.run_dir}-{this.earlier + 1}"
        if self._optimizer is not None:
            raw["optimizer"] |= optimizer_settings(self._optimizer, self.model)
        spec = parse_spec(raw)
        if self._scheduler is None:
            return spec
        batches = None if dataset.order is None else dataset.order.batches
        ends = order.epoch_ends(spec.recipe(Network(layers=()), batches=batches), dataset.epoch_rows)
        raw["optimizer"] = with_scheduler(
            raw["optimizer"], self._scheduler, self._optimizer, ends=ends, by=self._scheduler_by
        )
        return parse_spec(raw)

    def _dataset(self, train: Any, test: Any, target: str | None, **wish: Any) -> data.Dataset:
        """The data that were given, under the reading of the first fit, if there was one."""
        if train is None:
            raise DataError("no data were given; pass (x, y), a DataLoader, a table, or a name such as 'digits'")
        asked: dict[str, Any] = {
            "epochs": self.spec.epochs,
            "max_steps": self.spec.max_steps,
            "batch_size": self.spec.batch_size,
            "seed": self.spec.seed,
            "target": target,
            "floats": floats_of(self.spec.loss),
            "layout": layout_of(self.model),
            "reading": self.reading,
            **wish,
        }
        fixed: Reading | None = asked["reading"]
        asked["tokens"] = vocabulary(self.model, train, seed=self.spec.seed) if fixed is None else fixed.tokens
        return dataset_of(self._load(train), self._load(test), Wish(**asked))

    def _load(self, given: Any) -> Any:
        """The data set of a name; anything else as it is."""
        return self.spec.data.model_copy(update={"name": given}).load() if isinstance(given, str) else given

    def _outputs(self, dataset: data.Dataset, x: Any) -> Tensor:
        """The model's outputs for raw samples of a data set, in evaluation mode."""
        first = next(self.model.parameters())
        inputs = Inputs(
            x,
            mean=dataset.mean,
            std=dataset.std,
            dtype=first.dtype,
            device=first.device,
            shape=self._sample_shape(dataset),
            tokens=dataset.tokens is not None,
        )
        rows = np.arange(len(x))
        with restore_afterwards(self.model, parameters=Seeding(self.model).foreign), torch.no_grad():
            self.model.eval()
            return torch.cat([self.model(inputs.read(rows[at : at + _ROWS])) for at in range(0, len(x), _ROWS)])

    def _sample_shape(self, dataset: data.Dataset) -> tuple[int, ...]:
        """The shape in which the model takes a sample."""
        if self.network is None:
            return self._split(dataset.shape, tokens=dataset.tokens is not None).shapes[0]
        return self.network.shapes[0]

    def _split(self, shape: tuple[int, ...], *, tokens: bool) -> Network:
        return split(self.model, shape, layers=self.spec.model.layers, tokens=tokens)


def _both(first: Observer, second: Observer) -> Observer:
    def observer(progress: Any) -> None:
        first(progress)
        second(progress)

    return observer
