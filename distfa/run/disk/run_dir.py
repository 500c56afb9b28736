"""The run directory: what a run leaves behind. Every file in it is whole or absent.

One run has one directory. A run claims it by making it or, if it exists and is empty, by making metrics.jsonl in it,
which only one process can do. If a run fails early, only what that run made is removed.

spec.yaml            the resolved spec
run.json             status, versions, host, network, and at the end the result or the error
metrics.jsonl        one record per logged step and per evaluation
log.jsonl            attempts, checkpoints, warnings and the errors of layers (run_log.py)
events.out.tfevents  the same for TensorBoard
weights.safetensors  under the keys of the user's own model
order.npz            the samples that a loader's own sampler gave (kept_order.py)
last.safetensors     the last weights, if the run ended with better ones
checkpoints/         where the run can resume (checkpoint.py)

The process that drives a run holds a lock on metrics.jsonl. The system frees it when that process ends in any way, so
one can see that nobody drives the run any more.

All text is UTF-8; figures that are not finite are written as strings (strict_json.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter
from torch import Tensor

from distfa.core.base.model import Network
from distfa.errors import RunDirError
from distfa.files import disk_errors, find_in_folder, write_whole
from distfa.run.disk.claim import claim, claim_new, require_room
from distfa.run.disk.driver import driver, has_ended, is_driven, lock
from distfa.run.disk.events import Events
from distfa.run.disk.host import describe_host
from distfa.run.disk.tensor_files import tensors_to_bytes
from distfa.settings import RunSpec, load_spec
from distfa.text import strict_json
from distfa.text.redact import redact_all

SPEC, RUN, METRICS, LOG = "spec.yaml", "run.json", "metrics.jsonl", "log.jsonl"
WEIGHTS, LAST, CHECKPOINTS = "weights.safetensors", "last.safetensors", "checkpoints"
ORDER = "order.npz"
METADATA = "distfa"  # the key under which a file of weights says how its data were read
log = logging.getLogger(__name__)


class RunDir:
    """A run's directory as the run trains.

    Args:
        path: Where it is.
        made: Whether this run made the directory itself, or only what is in it.

    Attributes:
        about: What run.json says.
        original: The directory of which this one is a copy, if the run is still there too; None otherwise.
    """

    def __init__(self, path: Path, *, made: bool) -> None:
        self.path = path
        self._place = path.absolute()  # whatever folder the process goes to later
        self._made = made
        self.about: dict[str, Any] = {}
        self.original: Path | None = None
        self._as_found = b""  # run.json of a resumed run
        self.metrics_bytes = 0
        self.events = Events(self._place)
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
        where, made = claim_new(name, METRICS) if path is None else claim(expand_path(path), METRICS)
        run_dir = RunDir(where, made=made)
        try:
            with disk_errors("write", run_dir.path):
                run_dir._take_lock()
                require_room(run_dir.path, network)
                run_dir._write(SPEC, spec_text.encode(errors="surrogateescape"))  # names of files may be any bytes
                run_dir.about = {
                    "status": "running",
                    "attempt": 1,
                    "checkpoint": None,
                    "folder": os.getcwd(),
                    "place": str(run_dir._place),
                    "network": asdict(replace(network, paths={})),
                    **about,
                    **driver(),
                    "host": describe_host(),
                }
                run_dir.note()
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
        run_dir = RunDir(expand_path(path), made=False)
        run_dir.about = read_about(run_dir.path)
        if run_dir.about["status"] == "finished":
            raise RunDirError(f"the run in {path} has finished, so there is nothing to resume; start a new one")
        if not run_dir._take_lock():
            pid, node = run_dir.about.get("pid"), run_dir.about.get("node")
            raise RunDirError(
                f"the run in {path} is locked by a process left behind by its driver (pid {pid}, which has "
                f"ended); find that process with 'fuser {run_dir.metrics}' and end it"
                if has_ended(run_dir.about)
                else f"the run in {path} is driven by another process (pid {pid} on {node}); end that first"
            )
        run_dir._as_found = (run_dir._place / RUN).read_bytes()
        run_dir.original = _original_of(run_dir._place, run_dir.about)
        if run_dir.original is None:  # the run may have moved
            run_dir.about["place"] = str(run_dir._place)
        attempt = run_dir.about.get("attempt", 1) + 1
        run_dir.about |= {"status": "running", "error": None, "attempt": attempt, **driver(), "host": describe_host()}
        run_dir.note()
        return run_dir

    def read_spec(self) -> RunSpec:
        """The spec that the run began with.

        Raises:
            SpecError: It cannot be read.
        """
        return read_spec(self._place, self.about)

    def give_back(self) -> None:
        """Leave the directory as it was found, since the run cannot start or resume; a new one is removed.

        Raises:
            RunDirError: It cannot be written.
        """
        if not self._as_found:
            self.fail("failed", "", keep=False)
            return
        self._write(RUN, self._as_found)
        self._let_go()

    @property
    def metrics(self) -> Path:
        """The file of its records."""
        return self._place / METRICS

    @property
    def has_records(self) -> bool:
        """Whether any are in it."""
        return self.metrics.stat().st_size > 0

    def rewind(self, metrics_bytes: int, step: int) -> None:
        """Drop the records from ``step`` on, because they will come again.

        If a power failure took the last records before that, the file ends with those that are whole.

        Raises:
            RunDirError: It cannot be written.
        """
        with disk_errors("write", self.path / METRICS):
            if self.metrics.stat().st_size < metrics_bytes:
                metrics_bytes = self.metrics.read_bytes().rfind(b"\n") + 1
                log.warning("%s lacks records before step %d, from which it resumes", self.path / METRICS, step)
            os.truncate(self.metrics, metrics_bytes)
        self.metrics_bytes = metrics_bytes
        self.events.go_back(step)

    def note(self) -> None:
        """Write ``about`` as it is now to run.json.

        Raises:
            RunDirError: It cannot be written.
        """
        self._write(RUN, f"{strict_json.dumps(redact_all(self.about), indent=2)}\n".encode())

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl, whole or not at all.

        Raises:
            RunDirError: It cannot be written, for example because the disk is full.
        """
        line = (strict_json.dumps(record) + "\n").encode()
        path = self.metrics
        with disk_errors("write", path), path.open("r+b") as file:
            file.seek(self.metrics_bytes)
            try:
                file.write(line)
                file.flush()
            except OSError:
                os.truncate(path, self.metrics_bytes)
                raise
        self.metrics_bytes += len(line)

    def finish(
        self, weights: Mapping[str, Tensor], result: Mapping[str, Any], *, last: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep the weights and the result.

        Args:
            weights: What the run ends with.
            result: Its figures.
            last: The last weights, if they are others.

        Raises:
            RunDirError: They cannot be written.
        """
        self.events.close(finished=True)
        if last is not None:
            self._write_weights(last, LAST)
        self._write_weights(weights)
        self.about |= {"status": "finished", "result": dict(result)}
        self.note()
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
            self.note()
        except RunDirError:
            return  # if a full disk ended the run, run.json stays as it was

    def _write_weights(self, weights: Mapping[str, Tensor], name: str = WEIGHTS) -> None:
        """Write the weights, together with what turns raw samples into inputs."""
        self._write(name, tensors_to_bytes(weights, {METADATA: strict_json.dumps(self.about.get("inputs", {}))}))

    def _take_lock(self) -> bool:
        """Take the lock; False if another process drives the run."""
        try:
            self._lock = lock(self.metrics)
        except OSError as exc:
            raise RunDirError(
                f"cannot open {self.path / METRICS}, which is needed to resume a run: {exc.strerror}; restore it "
                "(if its records are lost, an empty file will do)"
            ) from exc
        return self._lock is not None

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write(self, name: str, content: bytes) -> None:
        with disk_errors("write", self.path / name):
            write_whole(self._place / name, content)

    def _remove(self) -> None:
        """Remove the files of this run; also the directory, if this run made it and nobody put more into it."""
        # TensorBoard puts the process id in the name
        events = self._place.glob(f"events.out.tfevents.*.{os.getpid()}.*")
        with contextlib.suppress(OSError):
            for name in (SPEC, RUN, WEIGHTS, LAST, ORDER, METRICS, LOG):
                (self._place / name).unlink(missing_ok=True)
            for file in events:
                file.unlink(missing_ok=True)
            if self._made:
                self._place.rmdir()


def expand_path(path: str | Path) -> Path:
    """The path with ``~`` replaced by the home directory.

    Raises:
        RunDirError: There is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise RunDirError(f"cannot find the home directory in {str(path)!r}: {exc}; write the whole path") from exc


def read_about(path: Path) -> dict[str, Any]:
    """The content of run.json; a run that did not end and that nobody drives any more gets the status ``lost``.

    Raises:
        RunDirError: There is no run there, or it cannot be read.
    """
    try:
        about = dict(json.loads((path / RUN).read_text(encoding="utf-8")))
    except FileNotFoundError as exc:
        raise RunDirError(
            f"{path} is not a run directory: it has no {RUN}; 'distfa train' prints the directory of a run"
        ) from exc
    except (OSError, ValueError) as exc:
        raise RunDirError(f"cannot read {path / RUN}: {exc}") from exc
    if about.get("status") == "running" and not is_driven(path / METRICS, about):
        about["status"] = "lost"
    return about | {"result": strict_json.restore_numbers(about.get("result"))}


def _original_of(path: Path, about: Mapping[str, Any]) -> Path | None:
    """Where the run was that left this run.json, if it is still there and not here."""
    noted = Path(about.get("place") or path)
    with contextlib.suppress(RunDirError, OSError):
        if not noted.samefile(path) and read_about(noted).get("run_id") == about["run_id"]:
            return noted
    return None


def read_spec(path: Path, about: Mapping[str, Any]) -> RunSpec:
    """The spec that a run began with; data that it named by a relative path are in the folder where it began.

    Raises:
        SpecError: It cannot be read.
    """
    spec = load_spec(path / SPEC)
    if spec.data.dir is None:
        return spec
    data = spec.data.model_copy(update={"dir": find_in_folder(spec.data.dir, about.get("folder") or "")})
    return spec.model_copy(update={"data": data})


def read_network(about: Mapping[str, Any]) -> Network:
    """The network that run.json describes."""
    return TypeAdapter(Network).validate_python(about["network"])
