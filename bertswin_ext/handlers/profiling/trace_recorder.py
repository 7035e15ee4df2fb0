"""A time line of a few iterations."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.operator_times import OperatorTime, operator_times

__all__ = ["TraceRecorder"]


class TraceRecorder:
    """Record iterations with torch's profiler, the parts of each as named ranges.

    Args:
        device: where the network computes.
        warmup: iterations that are recorded and thrown away, because the profiler itself is slow at first.
        active: iterations to keep.

    Example:
        >>> recorder = TraceRecorder(torch.device("cpu"), warmup=1, active=1)
        >>> for part in ("data", None, "data", None):
        ...     recorder.enter(part)
        >>> recorder.stop()
        >>> recorder.num_recorded
        1
    """

    def __init__(self, device: torch.device, warmup: int, active: int) -> None:
        self.device = device
        self.warmup = warmup
        self.active = active
        self._on_gpu = device.type == "cuda"
        self.is_running = False
        self._profiler: profile | None = None
        self._range: record_function | None = None
        self._done = 0

    @property
    def num_recorded(self) -> int:
        """Whole iterations that were kept."""
        return max(0, self._done - self.warmup)

    def enter(self, part: str | None) -> None:
        """Begin the range of a part, or with None end the iteration.

        Args:
            part: a key of ``PARTS``.
        """
        if self._profiler is None:
            self._start()
        self._close_range()
        if part is None:
            self._end_iteration()
        else:
            self._range = record_function(PARTS[part])
            self._range.__enter__()

    def stop(self) -> None:
        """Record no more."""
        self._close_range()
        if self._profiler is not None and self.is_running:
            self.is_running = False
            if self._on_gpu:
                torch.cuda.synchronize(self.device)
            self._profiler.stop()

    def export(self, path: Path) -> None:
        """Write the time line, which Perfetto and Chrome open.

        Args:
            path: a file that ends in ``.json.gz``.
        """
        if self._profiler is not None:
            with written_whole(path) as temporary:
                # the profiler looks at the ending of the name
                exported = temporary.with_name(f"{temporary.name}.gz")
                self._profiler.export_chrome_trace(str(exported))
                exported.replace(temporary)

    def operators(self, by_shape: bool = False) -> list[OperatorTime]:
        """What the operators cost per iteration.

        Args:
            by_shape: keep inputs of different shapes apart.
        """
        if self._profiler is None or not self.num_recorded:
            return []
        return operator_times(self._profiler, self.num_recorded, self._on_gpu, by_shape)

    def _start(self) -> None:
        """Start the profiler."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=self.warmup, active=self.active, repeat=1),
            record_shapes=True,
        )
        self._profiler.start()
        self.is_running = True

    def _end_iteration(self) -> None:
        """Go on to the next iteration; the last one is closed by `stop`."""
        self._done += 1
        if self._profiler is not None and self._done < self.warmup + self.active:
            self._profiler.step()

    def _close_range(self) -> None:
        """End the range of a part."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
