"""What every process has found, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import distributed as dist

__all__ = ["gathered"]

T = TypeVar("T")


def gathered(values: Sequence[T]) -> list[T]:
    """The values of all processes, those of the first one first; every process must call it.

    Args:
        values: what this process has; it is pickled.

    Example:
        >>> gathered([1, 2])
        [1, 2]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return list(values)
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, list(values))
    return [value for rank in ranks for value in rank]
