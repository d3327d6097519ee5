"""Many images at a time, in threads, in order, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from joblib import Parallel, delayed

from sepclr_med.progress import report_progress


class Clock:
    """Rings once per so many seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.started = time.monotonic()

    def rings(self) -> bool:
        """Return whether the time is up, and start again if so."""
        if time.monotonic() - self.started < self.seconds:
            return False
        self.started = time.monotonic()
        return True


def in_parallel(
    function: Callable[[Any], Any], items: Sequence[Any], n_jobs: int, task: str
) -> Iterator[tuple[Any, Any]]:
    """Give each item with its result, in order, and report progress."""
    # Unpacking, filters and interpolation all release the interpreter, so threads keep every core busy.
    parallel = Parallel(n_jobs=n_jobs, backend="threading", return_as="generator")
    results: Iterable[Any] = parallel(delayed(function)(item) for item in items)
    with _one_torch_thread(), report_progress(task, len(items)) as advance:
        for item, result in zip(items, results, strict=True):
            yield item, result
            advance()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch from starting a team of threads in each of ours: the teams would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
