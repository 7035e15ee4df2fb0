"""How long the parts of iterations take."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeAlias

import torch

from bertswin_ext.handlers.profiling.iteration_parts import PARTS

__all__ = ["PartTimes"]

# the host's time in seconds, or an event in the stream of a GPU
Mark: TypeAlias = Any


class PartTimes:
    """Seconds of the parts of iterations, on the device's own clock.

    A GPU is given work ahead and is not made to wait for the sake of the measurement: marks are put among its work and
    read when all is done. What is ascribed to waiting for data is then the time in which it had nothing to do because
    the next batch was not there.

    Args:
        device: where the network computes.

    Example:
        >>> times = PartTimes(torch.device("cpu"))
        >>> for part in ("data", "forward", None):
        ...     times.enter(part)
        >>> times.num_iterations, times.mean_seconds("loss")
        (1, 0.0)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._running: list[tuple[str, Mark]] = []
        self._marked: list[list[tuple[str | None, Mark]]] = []

    @property
    def num_iterations(self) -> int:
        """Whole iterations so far."""
        return len(self._marked)

    def enter(self, part: str | None) -> None:
        """Note the begin of a part, or with None the end of the iteration.

        Args:
            part: a key of ``PARTS``. Anything between iterations is left out; the first part is that of ``PARTS``.
        """
        if part == next(iter(PARTS)):
            self._running = []
        elif not self._running:
            return
        mark = self._mark()
        if part is None:
            self._marked.append([*self._running, (None, mark)])
            self._running = []
        else:
            self._running.append((part, mark))

    def mean_seconds(self, part: str) -> float:
        """Mean over the iterations; a part that occurs more than once counts as a whole.

        Args:
            part: a key of ``PARTS``.
        """
        return fmean(
            sum(_seconds(start, end) for (name, start), (_, end) in pairwise(marks) if name == part)
            for marks in self._marked
        )

    def iteration_seconds(self) -> list[float]:
        """Length of every iteration; on a GPU this waits until it has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [_seconds(marks[0][1], marks[-1][1]) for marks in self._marked]

    def _mark(self) -> Mark:
        """Now, on the clock of the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _seconds(start: Mark, end: Mark) -> float:
    """From one mark to another."""
    return float(end - start) if isinstance(start, float) else float(start.elapsed_time(end)) / 1000
