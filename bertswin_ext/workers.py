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
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

__all__ = ["in_workers"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_workers(
    work: Callable[..., Result], jobs: Sequence[Job], arguments: Sequence[Any], workers: int
) -> Iterator[tuple[Job, Result | None]]:
    """Do jobs in processes of their own.

    A process that dies, for want of memory above all, takes the others with it; the few jobs that were under way are
    then done again, one at a time, and the rest goes on. If this process dies, is interrupted or asks for no more
    results, the others end at once.

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
    life, end_of_life = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)), multiprocessing.get_context("spawn"), initializer=_live_with, initargs=(life,)
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
    except (KeyboardInterrupt, GeneratorExit):
        # nobody waits for what is under way
        end_of_life.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        life.close()
        end_of_life.close()
    return []


def _live_with(parent: Connection) -> None:
    """End with the process that started this one, or when it says so.

    Ctrl-C reaches all processes of a terminal. Here it is the parent that decides: a process that died of it could not
    be told from one that its job killed, and the job would be done again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    """Exit when the other end is closed, by the parent or by its death."""
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)
