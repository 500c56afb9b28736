"""Injects planned faults into the layers of a run, to see it recover."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from distfa.errors import SpecError
from distfa.run.engines import Engine, RayEngine
from distfa.runtime.faults import PlannedFault


class Injector:
    """Causes the faults of a plan one after the other, each once the one before it has been recovered from.

    Args:
        planned: The faults, in order of steps.
        engine: The engine of the run.

    Raises:
        SpecError: There are faults, and the layers are in this process.
    """

    def __init__(self, planned: Sequence[PlannedFault], engine: Engine) -> None:
        if planned and not isinstance(engine, RayEngine):
            raise SpecError("faults can be injected only into layers on Ray; use engine: ray")
        self._planned, self._engine = deque(planned), engine
        self._caused: float | None = None  # when, of the first planned one

    def inject(self, steps: int, seconds: float) -> None:
        """Cause the next fault, if it is due after so many steps and seconds of training."""
        if not isinstance(self._engine, RayEngine) or not self._planned or self._caused is not None:
            return
        due = self._planned[0]
        if steps >= due.step and seconds >= due.seconds:
            self._caused = time.monotonic()
            self._engine.inject(due.layer, due.fault)

    def noticed(self, at_seconds: float) -> dict[str, Any]:
        """The fault that the run has just recovered from, for its notes; empty if no fault of the plan was under way.

        Args:
            at_seconds: When the recovery began, by ``time.monotonic``.
        """
        if self._caused is None:
            return {}
        done, caused, self._caused = self._planned.popleft(), self._caused, None
        return {"fault": done.fault.value, "layer": done.layer, "noticed_seconds": round(at_seconds - caused, 3)}
