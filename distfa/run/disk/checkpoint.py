"""Checkpoints: all that a run needs to continue from a step, complete or absent.

    step-00000100/
        layer-001.safetensors     all state of one layer (``Layer.state_dict``)
        ...
        callbacks.pt              what callbacks remember, if there are any (callback_state.py)
        manifest.json             written last: without it there is no checkpoint

The manifest holds the digest of every file and of itself, so that an incomplete or altered checkpoint is noticed and
the one before it is used. It says whose it is, by the id of the run (shelf.py). The process that drives the run fetches
the shards and writes them during training. So layers need no common file system, and a lost node takes no checkpoint
with it. The place is a directory or any URL that fsspec knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from distfa.errors import CheckpointError
from distfa.files import write_whole
from distfa.run.disk import callback_state
from distfa.run.disk.tensor_files import tensors_from_bytes, tensors_to_bytes
from distfa.runtime.hosted_layer import Snapshot
from distfa.text import strict_json
from distfa.text.redact import MARK, remove_marks
from distfa.transport.message import Kind, Link
from distfa.transport.port import Traffic

FORMAT = 2
_READ = (1, FORMAT)  # format 1 says neither whose it is nor what callbacks remember
_MANIFEST, _MEMORY = "manifest.json", "callbacks.pt"
_NAME = re.compile(r"step-(\d+)$")
_TRAFFIC = TypeAdapter(list[tuple[Link, Kind, Traffic]])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run can continue.

    Attributes:
        step: The next step, counted from 0.
        layers: The ``state_dict`` of every layer, by its number.
        traffic: What every link had carried, by kind.
        notes: What else the run needs to continue, as JSON can hold it.
        memory: What callbacks remembered; None if nothing was kept of them.
    """

    step: int
    layers: dict[int, dict[str, Tensor]]
    traffic: dict[tuple[Link, Kind], Traffic]
    notes: dict[str, Any]
    memory: Any = None


class Store:
    """The checkpoints of one run.

    Args:
        place: A directory, or a URL for fsspec; it is made when the first checkpoint is written.
        keep: How many of the latest checkpoints are kept.
        run: The name of the run's own folder there, if several runs share the place.

    Attributes:
        root: Where it is, as messages name it.

    Raises:
        CheckpointError: fsspec does not know such a URL, or lacks the package for it.
    """

    def __init__(self, place: str, *, keep: int, run: str = "") -> None:
        self._keep = keep
        try:
            self._files, root = fsspec.core.url_to_fs(remove_marks(place))
        except Exception as exc:  # each kind of place has its own errors
            how = 'use a directory, or install the package it names (pip install "distfa[s3]" for s3://)'
            if MARK in place:
                how = (
                    "its password is not stored: give it again with --set checkpoint.dir=URL, or where fsspec "
                    "looks for it"
                )
                how += " (docs/how-to/survive.md)"
            raise CheckpointError(f"checkpoint.dir is {place!r}, which fsspec cannot open: {exc}; {how}") from exc
        self._local = "file" in (self._files.protocol if isinstance(self._files.protocol, tuple) else ())
        self.root = f"{root}/{run}" if run else str(root)

    def write(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any], remembered: Any = None) -> int:
        """Write a checkpoint, then remove earlier ones that are old or incomplete; returns its bytes.

        Args:
            step: The next one.
            snapshots: The snapshots of all layers, in order; taken one at a time.
            notes: What else the run needs to continue, as JSON can hold it.
            remembered: What callbacks remember; None for nothing.

        Raises:
            CheckpointError: It cannot be written; the part that was written is removed.
        """
        folder, shards, traffic, size = self._folder(step), [], [], 0
        try:
            with self._translate_errors(f"write the checkpoint of step {step} to {folder}"):
                self._files.makedirs(folder, exist_ok=True)
            for number, snapshot in enumerate(snapshots, start=1):
                content, name = tensors_to_bytes(snapshot.state), f"layer-{number:03d}.safetensors"
                shards.append({"layer": number, **self._put_named(folder, name, content)})
                traffic += [(link, kind, sent) for (link, kind), sent in snapshot.traffic.items()]
                size += len(content)
            manifest = {"format": FORMAT, "step": step, "shards": shards, **notes}
            if remembered is not None:
                content = callback_state.pack_state(remembered)
                manifest["memory"] = self._put_named(folder, _MEMORY, content)
                size += len(content)
            manifest["traffic"] = _TRAFFIC.dump_python(traffic, mode="json")
            text = strict_json.dumps(manifest)
            self._put(f"{folder}/{_MANIFEST}", f"{_sha256(text.encode())}\n{text}\n".encode())
        except BaseException:
            self._remove(folder)
            raise
        with contextlib.suppress(CheckpointError):  # this checkpoint is whole; the next one tries again to remove
            self._remove_before(step)
        return size

    def steps(self) -> list[int]:
        """The steps that have a manifest, latest first.

        Raises:
            CheckpointError: The place cannot be read.
        """
        begun = self._list_folders()
        with self._translate_errors(f"look for checkpoints in {self.root}"):
            whole = [n for n in begun if self._files.exists(f"{self._folder(n)}/{_MANIFEST}")]
        return sorted(whole, reverse=True)

    def notes(self, step: int) -> dict[str, Any]:
        """The manifest of a checkpoint.

        Raises:
            CheckpointError: It is incomplete or altered, or has the format of another version; the message names it.
        """
        path = f"{self._folder(step)}/{_MANIFEST}"
        digest, _, text = self._get(path, step).decode(errors="replace").partition("\n")
        text = text.removesuffix("\n")
        if _sha256(text.encode()) != digest:
            raise CheckpointError(f"the checkpoint of step {step} is damaged: {path} is not what was written")
        manifest: dict[str, Any] = strict_json.restore_numbers(json.loads(text))
        if manifest["format"] not in _READ:
            raise CheckpointError(
                f"the checkpoint of step {step} has format {manifest['format']}, but this version of distfa reads "
                f"formats up to {FORMAT}; resume with the version that wrote it"
            )
        return manifest

    def read(self, step: int) -> Checkpoint:
        """Read a whole checkpoint and compare every file with its digest.

        Raises:
            CheckpointError: It is incomplete or altered, or has the format of another version; the message names the
                file.
        """
        manifest, layers = self.notes(step), {}
        for shard in manifest["shards"]:
            layers[shard["layer"]] = tensors_from_bytes(self._get_named(step, shard))
        kept = manifest.get("memory")
        remembered = None if kept is None else callback_state.unpack_state(self._get_named(step, kept))
        try:
            traffic = {(link, kind): sent for link, kind, sent in _TRAFFIC.validate_python(manifest["traffic"])}
        except ValidationError as exc:
            raise CheckpointError(f"the checkpoint of step {step} cannot be read: {exc}") from exc
        return Checkpoint(step=step, layers=layers, traffic=traffic, notes=manifest, memory=remembered)

    def _list_folders(self) -> list[int]:
        """The steps that have a folder, whether complete or not."""
        with self._translate_errors(f"look for checkpoints in {self.root}"):
            try:
                found = [PurePosixPath(path).name for path in self._files.ls(self.root, detail=False)]
            except FileNotFoundError:
                return []
        return [int(match[1]) for match in map(_NAME.search, found) if match]

    def _remove_before(self, step: int) -> None:
        """Remove what is earlier than a whole checkpoint, but for those that are kept.

        What is later stays: a later one that is whole is never removed for an earlier one that was late.
        """
        kept = [n for n in self.steps() if n <= step][: self._keep]
        for other in self._list_folders():
            if other < step and other not in kept:
                self._remove(self._folder(other))

    def _folder(self, step: int) -> str:
        return f"{self.root}/step-{step:08d}"

    def _put_named(self, folder: str, name: str, content: bytes) -> dict[str, Any]:
        """Write a file; returns what the manifest says of it."""
        self._put(f"{folder}/{name}", content)
        return {"file": name, "bytes": len(content), "sha256": _sha256(content)}

    def _get_named(self, step: int, said: Mapping[str, Any]) -> bytes:
        """The content of a file of which the manifest says this."""
        path = f"{self._folder(step)}/{said['file']}"
        content = self._get(path, step)
        if _sha256(content) != said["sha256"]:
            raise CheckpointError(
                f"the checkpoint of step {step} is damaged: {path} is not what was written ({len(content)} bytes, "
                f"but {said['bytes']} were written)"
            )
        return content

    def _put(self, path: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._translate_errors(f"write {path}"):
            if self._local:
                write_whole(Path(path), content)
            else:
                self._files.pipe_file(path, content)

    def _get(self, path: str, step: int) -> bytes:
        try:
            with self._translate_errors(f"read {path}"):
                return bytes(self._files.cat_file(path))
        except CheckpointError as exc:
            raise CheckpointError(f"the checkpoint of step {step} is damaged: {exc}") from exc

    def _remove(self, folder: str) -> None:
        """Remove the manifest first, so that what is left is not a checkpoint."""
        for path in (f"{folder}/{_MANIFEST}", folder):
            with contextlib.suppress(CheckpointError), self._translate_errors(f"remove {path}"):
                self._files.rm(path, recursive=True)

    @contextlib.contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Turn every error of a place into one of distfa's: the client of a bucket has errors that are not OSErrors.

        Raises:
            CheckpointError: Says what failed, and what to do.
        """
        try:
            yield
        except Exception as exc:
            said = (isinstance(exc, OSError) and exc.strerror) or str(exc) or type(exc).__name__
            look = "" if self._local else ", that it can be reached and that the credentials are correct"
            raise CheckpointError(
                f"cannot {what}: {said}; check that there is free space{look}, or set checkpoint.dir to another "
                "location"
            ) from exc


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
