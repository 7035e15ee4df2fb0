"""What the stages of a scan take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["counted"]


@contextmanager
def counted(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add what a block takes to the seconds of a stage, also if it fails; a GPU has done its part by then.

    Example:
        >>> seconds = {"load": 1.0}
        >>> with counted(seconds, "load"):
        ...     pass
        >>> seconds["load"] >= 1.0
        True
    """
    start = time.perf_counter()
    try:
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
