"""The run directory: what a run leaves behind. Every file in it is whole or absent.

One run has one directory. A run claims it by making it or, if it exists and is empty, by making metrics.jsonl in it,
which only one process can do. If a run fails early, only what that run made is removed.

spec.yaml            the resolved spec
run.json             status, versions, host, network, and at the end the result or the error
metrics.jsonl        one record per logged step and per evaluation
log.jsonl            attempts, checkpoints, warnings and the errors of layers (run_log.py)
events.out.tfevents  the same for TensorBoard
weights.safetensors  under the keys of the user's own model
checkpoints/         where the run can go on (checkpoint.py)

The process that drives a run holds a lock on metrics.jsonl. The system frees it when that process ends in any way, so
one can see that nobody drives the run any more.

All text is UTF-8; figures that are not finite are written as strings (strict_json.py).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
from pydantic import TypeAdapter
from torch import Tensor

from distfa.core.model import Network
from distfa.errors import RunDirError
from distfa.experiment import strict_json
from distfa.experiment.driver import driver, is_driven, locked
from distfa.experiment.events import Events
from distfa.experiment.host import host_facts
from distfa.files import write_whole
from distfa.words import human_bytes

SPEC, RUN, METRICS, WEIGHTS = "spec.yaml", "run.json", "metrics.jsonl", "weights.safetensors"
LOG, CHECKPOINTS = "log.jsonl", "checkpoints"
_MARGIN_BYTES = 2**20  # bytes for the small files


class RunDir:
    """A run's directory while the run goes on.

    Args:
        path: Where it is.
        made: Whether this run made the directory itself, or only what is in it.
    """

    def __init__(self, path: Path, *, made: bool) -> None:
        self.path = path
        self._made = made
        self.about: dict[str, Any] = {}
        self.metrics_bytes = 0
        self.events = Events(path)
        self._lock: IO[bytes] | None = None

    @staticmethod
    def create(
        path: str | Path | None, *, name: str, spec_text: str, network: Network, about: Mapping[str, Any]
    ) -> RunDir:
        """Claim a directory and make its first files; leaves nothing behind if that fails.

        Args:
            path: A directory that does not exist yet or is empty; None for a new one, ``runs/<time>-<name>``.
            name: The last part of a new one's name.
            spec_text: The resolved spec.
            network: The layers, so that the weights can be used without the model's code.
            about: What else run.json contains from the start.

        Raises:
            RunDirError: The directory is not empty, another run has it, it cannot be written, or the disk has no room.
        """
        run_dir = _claim_new(name) if path is None else _claim(located(path))
        if run_dir is None:
            raise RunDirError(
                f"the run directory {path} exists and is not empty, or another run has just taken it; name another, or "
                "remove it"
            )
        try:
            _require_room(run_dir.path, network)
            run_dir._write(SPEC, spec_text.encode(errors="surrogateescape"))  # names of files may be any bytes
            run_dir.about = {
                "status": "running",
                "attempt": 1,
                "network": _describe(network),
                **about,
                **driver(),
                "host": host_facts(),
            }
            run_dir._write_about()
        except OSError as exc:
            run_dir._remove()
            raise cannot("write", run_dir.path, exc) from exc
        except BaseException:
            run_dir._remove()
            raise
        return run_dir

    @staticmethod
    def reopen(path: str | Path) -> RunDir:
        """Take over the directory of a run that has ended, or that nobody drives any more.

        Raises:
            RunDirError: There is no run, it has finished, or somebody drives it.
        """
        run_dir = RunDir(located(path), made=False)
        run_dir.about = read_about(run_dir.path)
        if run_dir.about["status"] == "finished":
            raise RunDirError(f"the run in {path} has finished, so that nothing is left to go on with; start a new one")
        if not run_dir._take_lock():
            raise RunDirError(
                f"the run in {path} is driven by another process (pid {run_dir.about.get('pid')} on "
                f"{run_dir.about.get('node')}); end that first"
            )
        attempt = run_dir.about.get("attempt", 1) + 1
        run_dir.about |= {"status": "running", "error": None, "attempt": attempt, **driver(), "host": host_facts()}
        run_dir._write_about()
        return run_dir

    def rewind(self, metrics_bytes: int, step: int) -> None:
        """Drop the records from ``step`` on, because they will come again.

        Raises:
            RunDirError: It cannot be written.
        """
        try:
            os.truncate(self.path / METRICS, metrics_bytes)
        except OSError as exc:
            raise cannot("write", self.path / METRICS, exc) from exc
        self.metrics_bytes = metrics_bytes
        self.events.go_back(step)

    def note(self) -> None:
        """Write ``about`` as it is now to run.json.

        Raises:
            RunDirError: It cannot be written.
        """
        self._write_about()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl, whole or not at all.

        Raises:
            RunDirError: It cannot be written, for example because the disk is full.
        """
        line = (strict_json.dumps(record) + "\n").encode()
        path = self.path / METRICS
        try:
            with path.open("r+b") as file:
                file.seek(self.metrics_bytes)
                try:
                    file.write(line)
                    file.flush()
                except OSError:
                    os.truncate(path, self.metrics_bytes)
                    raise
        except OSError as exc:
            raise cannot("write", path, exc) from exc
        self.metrics_bytes += len(line)

    def finish(self, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
        """Keep the weights and the result.

        Raises:
            RunDirError: They cannot be written.
        """
        self.events.close(finished=True)
        self._write_weights(weights)
        self.about |= {"status": "finished", "result": dict(result)}
        self._write_about()
        self._let_go()

    def fail(self, status: str, message: str, *, keep: bool, weights: Mapping[str, Tensor] | None = None) -> None:
        """Say in run.json how the run ended, and keep the weights so far; if there are none, remove its files."""
        self.events.close(finished=False)
        self._let_go()
        if not keep:
            self._remove()
            return
        self.about |= {"status": status, "error": message}
        try:
            if weights is not None:
                self._write_weights(weights)
            self._write_about()
        except RunDirError:
            return  # if a full disk ended the run, run.json stays as it was

    def _write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights, together with what turns raw samples into inputs."""
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        said = {"distfa": strict_json.dumps(self.about.get("inputs", {}))}
        self._write(WEIGHTS, safetensors.torch.save(contiguous, metadata=said))

    def _take_lock(self) -> bool:
        """Take the lock; False if another process drives the run."""
        self._lock = locked(self.path / METRICS)
        return self._lock is not None

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write_about(self) -> None:
        self._write(RUN, f"{strict_json.dumps(self.about, indent=2)}\n".encode())

    def _write(self, name: str, content: bytes) -> None:
        target = self.path / name
        try:
            write_whole(target, content)
        except OSError as exc:
            raise cannot("write", target, exc) from exc

    def _remove(self) -> None:
        """Remove the files of this run; also the directory, if this run made it and nobody put more into it."""
        events = self.path.glob(f"events.out.tfevents.*.{os.getpid()}.*")  # TensorBoard puts the process id in the name
        with contextlib.suppress(OSError):
            for name in (SPEC, RUN, WEIGHTS, METRICS, LOG):
                (self.path / name).unlink(missing_ok=True)
            for file in events:
                file.unlink(missing_ok=True)
            if self._made:
                self.path.rmdir()


def located(path: str | Path) -> Path:
    """The path with ``~`` replaced by the home directory.

    Raises:
        RunDirError: There is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise RunDirError(f"cannot find the home directory in {str(path)!r}: {exc}; write the whole path") from exc


def _claim(path: Path, *, fresh: bool = False) -> RunDir | None:
    """Claim a directory; None if it is not empty or another run was first.

    Args:
        path: The directory.
        fresh: Whether it must not exist yet, not even as an empty one.

    Raises:
        RunDirError: It cannot be written.
    """
    made = False
    try:
        os.fsencode(
            str(path).encode().decode()
        )  # both the system's encoding and TensorBoard's, which is UTF-8, must be able to write the name
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            made = True
        if not made and (fresh or not path.is_dir() or any(path.iterdir())):
            return None
        try:
            (path / METRICS).open("xb").close()
        except FileExistsError:
            return None
    except OSError as exc:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise cannot("write", path, exc) from exc
    except UnicodeError as exc:
        raise RunDirError(
            f"the run directory {str(path)!a} has letters that this process cannot write, its encoding for file "
            f"names is {sys.getfilesystemencoding()}; set PYTHONUTF8=1, or name another"
        ) from exc
    run_dir = RunDir(path, made=made)
    run_dir._take_lock()
    return run_dir


def _claim_new(name: str) -> RunDir:
    """Claim runs/<time>-<name>, with a number at the end if another run has that name."""
    stem = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"
    number, run_dir = 1, _claim(stem, fresh=True)
    while run_dir is None:
        number += 1
        run_dir = _claim(stem.with_name(f"{stem.name}-{number}"), fresh=True)
    return run_dir


def read_about(path: Path) -> dict[str, Any]:
    """The content of run.json; a run that did not end and that nobody drives any more gets the status ``lost``.

    Raises:
        RunDirError: There is no run there, or it cannot be read.
    """
    try:
        about = dict(json.loads((path / RUN).read_text(encoding="utf-8")))
    except FileNotFoundError as exc:
        raise RunDirError(
            f"{path} is not a run directory: it has no {RUN}; 'distfa train' prints where it keeps a run"
        ) from exc
    except (OSError, ValueError) as exc:
        raise RunDirError(f"cannot read {path / RUN}: {exc}") from exc
    if about.get("status") == "running" and not is_driven(path / METRICS, about):
        about["status"] = "lost"
    return about | {"result": strict_json.numbers(about.get("result"))}


def read_network(about: Mapping[str, Any]) -> Network:
    """The network that run.json describes."""
    return TypeAdapter(Network).validate_python(about["network"])


def _describe(network: Network) -> dict[str, Any]:
    return asdict(network)


def _require_room(path: Path, network: Network) -> None:
    """Refuse at the start a disk that would be full at the end."""
    weights = sum(8 * layer.parameters for layer in network.layers)
    free, needed = shutil.disk_usage(path).free, weights + _MARGIN_BYTES
    if free < needed:
        raise RunDirError(
            f"the disk of the run directory {path} has {human_bytes(free)} free and the run may need "
            f"{human_bytes(needed)}; free some, or set run_dir to another disk"
        )


def cannot(do: str, path: Path, error: OSError) -> RunDirError:
    """The error for a file that cannot be read or written."""
    return RunDirError(f"cannot {do} {path}: {error.strerror or error}; free the disk or set run_dir to another place")
