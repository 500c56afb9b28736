"""The run directory: what a run leaves behind; every file in it is whole or absent.

spec.yaml            the resolved spec
run.json             status, versions, host, network, and at the end the result or the error
metrics.jsonl        one record per logged step and per evaluation
events.out.tfevents  the same for TensorBoard
weights.safetensors  under the keys of the user's own model
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distfa.core.activations import Activation
from distfa.core.network import LayerShape, Network
from distfa.errors import RunDirError
from distfa.version import __version__

SPEC, RUN, METRICS, WEIGHTS = "spec.yaml", "run.json", "metrics.jsonl", "weights.safetensors"
_MARGIN_BYTES = 2**20  # for the small files


class RunDir:
    """A run's directory while the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._about: dict[str, Any] = {}
        self._metrics_bytes = 0
        self._events: Any = None

    @staticmethod
    def create(path: Path, *, spec_text: str, network: Network, about: Mapping[str, Any]) -> RunDir:
        """Make the directory and its first files; leaves nothing behind when it fails.

        Args:
            path: Must not exist yet, or be empty.
            spec_text: The resolved spec.
            network: The layers, so that the weights can be used without the model's code.
            about: What else run.json says from the start.

        Raises:
            RunDirError: It exists and is not empty, cannot be written, or the disk has no room.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunDirError(f"the run directory {path} exists and is not empty; name another, or remove it")
        run_dir, existed = RunDir(path), path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _require_room(path, network)
            run_dir._write(SPEC, spec_text.encode())
            run_dir._about = {
                "status": "running",
                "network": _describe(network),
                **about,
                "host": host_facts(),
            }
            run_dir._write_about()
            (path / METRICS).touch()
        except (OSError, RunDirError) as exc:
            if not existed:
                shutil.rmtree(path, ignore_errors=True)
            raise exc if isinstance(exc, RunDirError) else _cannot("write", path, exc) from exc
        return run_dir

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl, whole or not at all.

        Raises:
            RunDirError: It cannot be written, a full disk for one.
        """
        line = (json.dumps(record, allow_nan=False, default=str) + "\n").encode()
        path = self.path / METRICS
        try:
            with path.open("r+b") as file:
                file.seek(self._metrics_bytes)
                try:
                    file.write(line)
                    file.flush()
                except OSError:
                    os.truncate(path, self._metrics_bytes)
                    raise
        except OSError as exc:
            raise _cannot("write", path, exc) from exc
        self._metrics_bytes += len(line)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values for TensorBoard.

        Raises:
            RunDirError: They cannot be written.
        """
        try:
            if self._events is None:
                from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, so only when used

                self._events = SummaryWriter(str(self.path), flush_secs=5)
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        except OSError as exc:
            raise _cannot("write", self.path, exc) from exc

    def finish(self, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
        """Keep the weights and the result.

        Raises:
            RunDirError: They cannot be written.
        """
        self._close_events()
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        self._write(WEIGHTS, safetensors.torch.save(contiguous))
        self._about |= {"status": "finished", "result": dict(result)}
        self._write_about()

    def fail(self, status: str, message: str, *, keep: bool) -> None:
        """Say in run.json how the run ended; with nothing to keep, remove the directory instead."""
        self._close_events()
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        self._about |= {"status": status, "error": message}
        try:
            self._write_about()
        except RunDirError:
            return  # a full disk is why it ends; run.json then stays as it was

    def _write_about(self) -> None:
        self._write(RUN, json.dumps(self._about, indent=2, default=str).encode())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file beside its place, then move it there."""
        target, draft = self.path / name, self.path / f".{name}.part"
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except OSError as exc:
            draft.unlink(missing_ok=True)
            raise _cannot("write", target, exc) from exc

    def _close_events(self) -> None:
        if self._events is not None:
            _ignoring_full_disk(self._events.close)
            self._events = None


def new_path(rule: str, data: str) -> Path:
    """runs/<time>-<rule>-<data>, with a number behind it where that exists."""
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{rule}-{data}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


def read_about(path: Path) -> dict[str, Any]:
    """run.json of a run directory.

    Raises:
        RunDirError: There is no run there, or it cannot be read.
    """
    try:
        return dict(json.loads((path / RUN).read_text()))
    except FileNotFoundError as exc:
        raise RunDirError(
            f"{path} is no run directory: it has no {RUN}; 'distfa train' prints where it keeps a run"
        ) from exc
    except (OSError, ValueError) as exc:
        raise RunDirError(f"cannot read {path / RUN}: {exc}") from exc


def read_network(about: Mapping[str, Any]) -> Network:
    """The network that run.json describes."""
    return Network(
        tuple(LayerShape(**{**layer, "activation": Activation(**layer["activation"])}) for layer in about["network"])
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The saved weights.

    Raises:
        RunDirError: There are none, or the file is damaged.
    """
    file = path / WEIGHTS
    if not file.exists():
        status = read_about(path).get("status")
        raise RunDirError(f"{path} has no {WEIGHTS}: the run's status is {status!r}; only a finished run has weights")
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc


def host_facts() -> dict[str, Any]:
    """What a reader of the figures needs to know of the machine and the software."""
    return {
        "distfa": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_average": os.getloadavg(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The model's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _describe(network: Network) -> list[dict[str, Any]]:
    return [asdict(layer) for layer in network.layers]


def _require_room(path: Path, network: Network) -> None:
    """Refuse at the start what would fail at the end."""
    weights = sum(8 * layer.outputs * (layer.inputs + 1) for layer in network.layers)
    free, needed = shutil.disk_usage(path).free, weights + _MARGIN_BYTES
    if free < needed:
        raise RunDirError(
            f"the disk of the run directory {path} has {free / 2**20:.1f} MiB free and the run may need "
            f"{needed / 2**20:.1f} MiB; free some, or set run_dir to another disk"
        )


def _cannot(do: str, path: Path, error: OSError) -> RunDirError:
    return RunDirError(f"cannot {do} {path}: {error.strerror or error}; free the disk or set run_dir to another place")


def _ignoring_full_disk(action: Callable[[], None]) -> None:
    """TensorBoard flushes on close; on a full disk the records in metrics.jsonl are what is left."""
    try:
        action()
    except OSError:
        return
