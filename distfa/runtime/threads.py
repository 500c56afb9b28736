"""Layer workers as threads of this process: for tests, and to see a run without Ray."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from distfa.runtime.worker import LayerWorker

_CALLS_AT_ONCE = 3  # run, status, and close


class ThreadHandle:
    """A worker in this process; its calls run in threads of their own."""

    def __init__(self, layer: int, worker: LayerWorker) -> None:
        self.layer = layer
        self.worker = worker
        self._pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix=f"layer-{layer}")

    def call(self, method: str, *args: object) -> Future[Any]:
        """Call a method of the worker."""
        return self._pool.submit(getattr(self.worker, method), *args)

    def close(self) -> None:
        """Close the worker and let its threads end."""
        self.worker.close()
        self._pool.shutdown(wait=False)
