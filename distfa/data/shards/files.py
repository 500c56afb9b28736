"""Where shards are: a folder, or any place that fsspec reaches. Opened anew in every process that reads them."""

from __future__ import annotations

import socket
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec

from distfa.data.dataset import Array
from distfa.data.shards.formats import ending, read_shard
from distfa.errors import DataError

# What numpy, zipfile, tarfile and pyarrow (ArrowInvalid is a ValueError) raise for damaged files.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile, zlib.error, tarfile.TarError)
_HOW = "every node that hosts the first layer, or one that reads labels, must reach it, as this process does"


@dataclass(frozen=True)
class ShardFiles:
    """The files of a data set in shards.

    Attributes:
        place: A folder, or a URL for fsspec.
        label: What labels are called in the shards; None for the usual name in each format.
    """

    place: str
    label: str | None

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "label": self.label}  # without what is open

    @cached_property
    def _system(self) -> tuple[Any, str]:
        try:
            files, root = fsspec.core.url_to_fs(self.place)
        except Exception as exc:  # each kind of place has its own errors
            raise DataError(
                f"data.dir is {self.place!r}, which fsspec cannot open: {exc}; use a folder, or install the package "
                'that it names (pip install "distfa[s3]" for s3://)'
            ) from exc
        return files, root.rstrip("/")

    def find(self, split: str) -> list[tuple[str, int]]:
        """(name, bytes) of the shards of a split, in order: files whose path in the place begins with its name."""
        files, root = self._system
        try:
            found = files.find(root, detail=True)
        except Exception as exc:
            raise DataError(f"data.dir {self.place!r} cannot be read: {exc}") from exc
        named = {path.removeprefix(root).lstrip("/"): int(about["size"]) for path, about in found.items()}
        return sorted((name, size) for name, size in named.items() if name.startswith(split) and ending(name))

    def read(self, name: str, want: str) -> Array:
        """``INPUTS`` or ``LABELS`` of a shard, as they are in it.

        Raises:
            DataError: It cannot be read; the message has its name and where it was read.
        """
        files, root = self._system
        try:
            with files.open(f"{root}/{name}", "rb") as file:
                return read_shard(file, name, want, self.label)
        except DataError as exc:
            raise DataError(f"shard {name} of {self.place}: {exc}") from exc
        except (FileNotFoundError, PermissionError) as exc:
            raise DataError(
                f"shard {name} of {self.place} cannot be opened on {socket.gethostname()} ({exc}): {_HOW}"
            ) from exc
        except _DAMAGE as exc:
            raise DataError(f"shard {name} of {self.place} is damaged, or no shard: {exc}") from exc

    def read_text(self, name: str) -> bytes | None:
        """The content of a small file beside the shards; None if there is none."""
        files, root = self._system
        try:
            found: bytes = files.cat_file(f"{root}/{name}")
        except (OSError, ValueError):
            return None
        return found

    def write_text(self, name: str, content: bytes) -> None:
        """Write a small file beside the shards.

        Raises:
            OSError: Nobody may write there, or something else went wrong.
        """
        files, root = self._system
        files.pipe_file(f"{root}/{name}", content)
