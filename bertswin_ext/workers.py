"""Many jobs in a few processes, of which any may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

__all__ = ["in_workers"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_workers(
    work: Callable[..., Result], jobs: Sequence[Job], arguments: Sequence[Any], workers: int
) -> Iterator[tuple[Job, Result | None]]:
    """Do jobs in processes of their own.

    A process that dies, for want of memory above all, takes the others with it; the few jobs that were under way are
    then done again, one at a time, and the rest goes on. If this process dies, so do the others.

    Args:
        work: called as ``work(job, *arguments)``; what it raises is raised here, and the jobs not begun are dropped.
        jobs: what to do; like all else here they must pickle.
        arguments: the same for every job.
        workers: processes.

    Yields:
        Every job with its result, in the order in which they get done; the result is None if its process died again
        when it was alone.

    Example:
        >>> sorted(in_workers(round, [1.26, 2.71], (1,), workers=2))
        [(1.26, 1.3), (2.71, 2.7)]
    """
    waiting = deque(jobs)
    while waiting:
        for job in (yield from _in_pool(work, waiting, arguments, workers)):
            for lost in (yield from _in_pool(work, deque([job]), arguments, 1)):
                yield lost, None


def _in_pool(
    work: Callable[..., Result], waiting: deque[Job], arguments: Sequence[Any], workers: int
) -> Generator[tuple[Job, Result], None, list[Job]]:
    """Do the jobs that are waiting until one of the processes dies; returns what was under way then."""
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)), multiprocessing.get_context("spawn"), initializer=_die_with_parent
    )
    under_way: dict[Future[Result], Job] = {}
    try:
        while waiting or under_way:
            # no more than can be done at once: all that the pool has is lost when it breaks
            while waiting and len(under_way) < workers:
                under_way[pool.submit(work, waiting[0], *arguments)] = waiting[0]
                waiting.popleft()
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield under_way.pop(future), result
    except BrokenProcessPool:
        return list(under_way.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _die_with_parent() -> None:
    """Let this process end, silently and at once, on Ctrl-C and with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """Exit when the parent has."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
