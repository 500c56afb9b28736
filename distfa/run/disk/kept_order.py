"""The file of a run directory that says which samples a loader's own sampler gave, to continue with."""

from __future__ import annotations

from pathlib import Path

from distfa.data.given_order import GivenOrder
from distfa.errors import RunDirError
from distfa.files import save_whole
from distfa.run.disk.run_dir import ORDER, expand_path


def save_order(run_dir: Path, order: GivenOrder) -> None:
    """Write it, whole or not at all.

    Raises:
        RunDirError: It cannot be written.
    """
    save_whole(run_dir / ORDER, order.to_bytes())


def load_order(run_dir: Path) -> GivenOrder | None:
    """Read what ``save_order`` wrote; None if the run needed none.

    Raises:
        RunDirError: It cannot be read.
    """
    file = expand_path(run_dir) / ORDER
    try:
        return GivenOrder.from_bytes(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc
