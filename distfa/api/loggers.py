"""Callbacks that write settings and figures of a run to MLflow and to Weights & Biases; for TensorBoard none is needed.

Both libraries are extras: ``pip install distfa[mlflow]``, ``pip install distfa[wandb]``.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

from distfa.api.callbacks import At, Callback
from distfa.errors import UsageError

_LONGEST, _MOST = 500, 100  # characters of a setting, and settings at once, that MLflow takes


class _Logger(Callback):
    """What both have in common: one run of the tracker for one run of distfa, also if that is resumed."""

    def __init__(self, library: str) -> None:
        try:
            self._library: Any = importlib.import_module(library)
        except ImportError as exc:
            raise UsageError(f"{type(self).__name__} needs {library}: pip install 'distfa[{library}]'") from exc
        self._run_id: str | None = None
        self._begun = False

    def on_start(self, at: At) -> None:
        """Forget an earlier fit; the tracker's run begins with the first figures: this run may be a resumed one."""
        self._run_id, self._begun = None, False

    def on_epoch(self, at: At) -> None:
        """Write the figures of the epoch."""
        if not self._begun:
            self._begin(at.settings)
            self._begun = True
        self._log({name: value for name, value in at.figures.items() if value is not None}, at.step)

    def state_dict(self) -> dict[str, Any]:
        """The tracker's run, which a resumed run continues."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with that run."""
        self._run_id = self._run_id or state["run_id"]

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Begin a run with these settings, or continue the one that is known."""
        raise NotImplementedError

    def _log(self, figures: dict[str, float], step: int) -> None:
        raise NotImplementedError


class MLFlowLogger(_Logger):
    """Writes settings and figures to MLflow.

    Args:
        experiment_name: The experiment, which is made if there is none.
        run_name: None: MLflow chooses one.
        tracking_uri: A server, or a database as ``sqlite:///mlflow.db``; None: what MLFLOW_TRACKING_URI says.

    Raises:
        UsageError: MLflow is not installed.
    """

    def __init__(
        self, experiment_name: str = "distfa", *, run_name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        super().__init__("mlflow")
        self._experiment, self._name = experiment_name, run_name
        self._client = self._library.MlflowClient(tracking_uri)

    def on_end(self, at: At) -> None:
        """End the tracker's run."""
        self._client.set_terminated(self._run_id)

    def _begin(self, settings: Mapping[str, Any]) -> None:
        if self._run_id is not None:
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        self._run_id = self._client.create_run(experiment, run_name=self._name).info.run_id
        params = [self._library.entities.Param(key, str(value)[:_LONGEST]) for key, value in settings.items()]
        for at in range(0, len(params), _MOST):
            self._client.log_batch(self._run_id, params=params[at : at + _MOST])

    def _log(self, figures: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._library.entities.Metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=metrics)


class WandbLogger(_Logger):
    """Writes settings and figures to Weights & Biases.

    Args:
        project: The project.
        init: More arguments of ``wandb.init``: ``name``, ``entity``; with ``mode="offline"`` it writes to ``dir`` only.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, project: str = "distfa", **init: Any) -> None:
        super().__init__("wandb")
        self._init = {"project": project, **init}
        self._run: Any = None

    def on_end(self, at: At) -> None:
        """End the tracker's run."""
        self._run.finish()

    def _begin(self, settings: Mapping[str, Any]) -> None:
        resumed = {} if self._run_id is None else {"id": self._run_id, "resume": "allow"}
        self._run = self._library.init(**self._init, **resumed, config=dict(settings))
        self._run_id = self._run.id

    def _log(self, figures: dict[str, float], step: int) -> None:
        self._run.log(figures, step=step)
