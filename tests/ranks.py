"""Work that several gloo processes do together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tests.warm  # noqa: F401  (its server has imported torch)

__all__ = ["alone", "found_by"]


def found_by(num_ranks: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returned in every process; a function of a module, whose result can be saved."""
    mp.start_processes(_rank, (num_ranks, work, str(folder), arguments), nprocs=num_ranks, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(num_ranks)]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _rank(rank: int, num_ranks: int, work: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=num_ranks)
    torch.save(work(rank, *arguments), f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
