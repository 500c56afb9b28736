"""A call of ``load`` in the form that every loader receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distfa.errors import DataError

WINDOW = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of ``load``.

    Attributes:
        name: A key of the loader table.
        directory: Where the files are; may be the path of one .npz file if the loader reads that form.
        classes: Number of classes; None for what the data set itself says.
        hub: Path of a Hugging Face data set.
        place: The directory as it was given, which may be a URL.
        label: What labels are called in shards.
        window: How many shards are shuffled together.
    """

    name: str
    directory: Path | None = None
    classes: int | None = None
    hub: str | None = None
    place: str | None = None
    label: str | None = None
    window: int = WINDOW

    def require_directory(self, expected: str) -> Path:
        """The directory (or file), after checking that it exists.

        Args:
            expected: Which files should be there, for the message.

        Raises:
            DataError: It was not given, or does not exist.
        """
        if self.directory is None:
            raise DataError(
                f"data set {self.name!r} is read from files, but no directory was given; give --data-dir "
                f"(directory= in Python) with {expected}"
            )
        if not self.directory.exists():
            raise DataError(
                f"data directory {str(self.directory)!r} does not exist; give --data-dir a directory with {expected}"
            )
        return self.directory
