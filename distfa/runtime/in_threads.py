"""Workers as threads of this process: for tests, and to watch a run without Ray."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from distfa.runtime.job import Job
from distfa.runtime.worker import Worker, name_worker

_CALLS_AT_ONCE = 3  # run, status, and close
_CLOSE_SECONDS = 2.0  # seconds for calls in progress; a call that goes on computing cannot be stopped


class ThreadHandle:
    """A worker in this process; every call runs in its own thread."""

    def __init__(self, job: Job, worker: int, hosted: Worker) -> None:
        self.worker, self.layers, self._title = worker, job.hosted[worker - 1], name_worker(job, worker)
        self.hosted = hosted
        self._pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix=f"worker-{worker}")
        self._calls: set[Future[Any]] = set()

    def __str__(self) -> str:
        return self._title

    def call(self, method: str, *args: object) -> Future[Any]:
        """Call a method of the worker."""
        future = self._pool.submit(getattr(self.hosted, method), *args)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def close(self) -> None:
        """Close the worker; its threads end with the calls in progress."""
        self.hosted.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(set(self._calls), timeout=_CLOSE_SECONDS)
