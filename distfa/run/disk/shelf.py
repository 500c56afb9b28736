"""Where the checkpoints of a run are, and which of those found there are its own.

They are in the run directory, or below ``checkpoint.dir``. Several runs may share that place: each has a folder of its
own there, named by its id. Earlier versions wrote to the place itself and did not say whose a checkpoint was; a run
continues from such a one if it is of the same spec, model and data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distfa.errors import CheckpointError
from distfa.files import find_in_folder
from distfa.run.disk.checkpoint import Checkpoint, Store
from distfa.run.disk.run_dir import CHECKPOINTS
from distfa.runtime.hosted_layer import Snapshot
from distfa.text.redact import redact

Notes = Mapping[str, Any]


class Shelf:
    """The checkpoints of one run.

    Args:
        run: The run's id.
        writes: Where it writes them.
        others: Where else its own may be.
        shared: Where those of several runs may be, from earlier versions.
        same: Whether notes that do not say whose they are can be this run's.
    """

    def __init__(
        self,
        run: str,
        writes: Store,
        others: Iterable[Store] = (),
        shared: Iterable[Store] = (),
        same: Callable[[Notes], bool] = lambda notes: True,
    ) -> None:
        self._run, self._writes, self._own = run, writes, [writes, *others]
        self._shared, self._same = list(shared), same

    @property
    def places(self) -> str:
        """Where checkpoints are looked for, in words."""
        return ", ".join(dict.fromkeys(store.root for store in (*self._own, *self._shared)))

    def write(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any], remembered: Any = None) -> int:
        """``Store.write``, with the id of the run."""
        return self._writes.write(step, snapshots, {**notes, "run": self._run}, remembered)

    def steps(self) -> list[int]:
        """The steps of the run's whole checkpoints, latest first.

        Raises:
            CheckpointError: A place cannot be read.
        """
        found = set()
        for step, store in self._whole():
            with contextlib.suppress(CheckpointError):
                if self._is_mine(step, store):
                    found.add(step)
        return sorted(found, reverse=True)

    def latest(self) -> Iterator[Checkpoint | CheckpointError]:
        """The errors of damaged checkpoints, then the latest good one; nothing if there is none.

        Raises:
            CheckpointError: A place cannot be read.
        """
        for step, store in self._whole():
            try:
                if not self._is_mine(step, store):
                    continue
                yield store.read(step)
                return
            except CheckpointError as exc:
                yield exc

    def _whole(self) -> Iterator[tuple[int, Store]]:
        """All that have a manifest, latest first; those of earlier versions only if there are no others."""
        for stores in (self._own, self._shared):
            found = [(step, store) for store in stores for step in store.steps()]
            yield from sorted(found, key=lambda pair: -pair[0])

    def _is_mine(self, step: int, store: Store) -> bool:
        """Whether a checkpoint is this run's; one in its own folder that is not is refused.

        Raises:
            CheckpointError: It is another run's, or damaged.
        """
        notes = store.notes(step)
        if store in self._shared:
            return "run" not in notes and self._same(notes)
        if notes.get("run", self._run) != self._run:
            raise CheckpointError(
                f"the checkpoint of step {step} in {store.root} belongs to run {notes['run']}, not to run {self._run}"
            )
        return True


def shelf_of(
    path: Path,
    about: Mapping[str, Any],
    *,
    asked: str | None,
    began_with: str | None,
    keep: int = 1,
    same: Callable[[Notes], bool] = lambda notes: True,
) -> Shelf:
    """The checkpoints of the run in a directory.

    Args:
        path: The run directory.
        about: Its run.json.
        asked: ``checkpoint.dir`` as it is now.
        began_with: The same as the run began with it; if it is relative, it is so to the folder it began in.
        keep: How many are kept.
        same: Whether notes that do not say whose they are can be this run's.

    Raises:
        CheckpointError: fsspec cannot open a place.
    """
    run = str(about["run_id"])
    began_in = about.get("folder") or ""
    named: dict[str, str] = {}
    for place in filter(None, (asked, began_with)):
        named.setdefault(redact(place), place)  # what the run began with has no password in its spec
    places = list(named.values())
    rooted = [find_in_folder(place, began_in) if place == began_with else place for place in places]
    inside = Store(str(path.absolute() / CHECKPOINTS), keep=keep)
    below = [Store(place, keep=keep, run=run) for place in rooted]
    ordered = [*below, inside] if asked is not None else [inside, *below]
    return Shelf(run, ordered[0], ordered[1:], [Store(place, keep=keep) for place in rooted], same)
