"""Fresh processes, in which nothing is warm and of whose memory nothing is taken yet."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch


def in_own_process(call: Callable[..., Any], *args: object, preload: Sequence[str] = ()) -> Any:
    """The result of a call in a fresh process; None if it did not get the memory.

    Args:
        call: of a module that can be imported.
        *args: of it.
        preload: modules that a process has imported from which the fresh ones are forked, where importing takes longer
            than the call; without any it starts from nothing.
    """
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(call, *args).result()
        except (MemoryError, BrokenProcessPool, torch.OutOfMemoryError):
            return None
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            return None
