"""On what `pretrain_step.py` measures, and how: threads, types, clocks and memory."""

from __future__ import annotations

import resource
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensor_loops import Losses

from bertswin_ext.hardware import processor_name
from step.arms import Arm, Size

# the first step makes the optimizer's state, the second touches the other half of the conductor's rows
WARM_UP = 2

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Setting(NamedTuple):
    """On what, and how."""

    device: str
    dtype: str
    threads: int
    memory_gb: float
    tf32: bool

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, where another type than float32 is asked for."""
        dtype = getattr(torch, self.dtype)
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device, dtype)


def prepare(setting: Setting) -> None:
    """A fresh process: threads, seed, limit of memory, and whether float32 may be multiplied in TF32."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    if setting.device == "cpu":
        limit = int(setting.memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.backends.cuda.matmul.allow_tf32 = setting.tf32
    torch.backends.cudnn.allow_tf32 = setting.tf32


def machine(setting: Setting) -> dict[str, str]:
    """What is measured on, and with which torch."""
    if setting.device == "cuda":
        tf32 = f", TF32 {'on' if setting.tf32 else 'off'}"
        return {
            "device": "cuda",
            "machine": torch.cuda.get_device_name(),
            "software": f"torch {torch.__version__}{tf32}",
        }
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    kind = f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, {threads}"
    return {"device": "cpu", "machine": kind, "software": f"torch {torch.__version__}"}


def random_volumes(arm: Arm, size: Size, batch: int, setting: Setting) -> torch.Tensor:
    """A batch of noise."""
    return torch.randn(batch * arm.views, 1, *3 * [size.img_size], device=setting.device)


def losses_of(arm: Arm, volumes: torch.Tensor, setting: Setting) -> Losses:
    """Forward pass and losses."""
    with setting.precision():
        return arm.losses(arm.forward(volumes), volumes)


def start_of_memory(setting: Setting) -> float:
    """Bytes now; `peak` counts from here, where the system lets it."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _FORGET_PEAK.exists():
        _FORGET_PEAK.write_text("5", encoding="ascii")
    return peak(setting)


def peak(setting: Setting) -> float:
    """Bytes at the worst moment so far: of a GPU's tensors, or of what the process has resident."""
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    lines = _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else []
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return 1024.0 * float(kilobytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def step(arm: Arm, volumes: torch.Tensor, setting: Setting) -> list[float]:
    """Make a step; seconds of its parts."""
    watch = Watch(setting)
    with setting.precision():
        output = arm.forward(volumes)
        watch.mark()
        losses = arm.losses(output, volumes)
        watch.mark()
    del output
    arm.method.backward(losses)
    watch.mark()
    arm.method.decide()
    watch.mark()
    arm.method.update()
    arm.method.clear()
    watch.mark()
    return watch.seconds()


class Watch:
    """Seconds between marks: CPU time of one thread, the clock's of several, and on a GPU that of its events."""

    def __init__(self, setting: Setting) -> None:
        self._on_gpu = setting.device == "cuda"
        self._clock = time.process_time if setting.threads == 1 else time.perf_counter
        self._marks: list[Any] = []
        if self._on_gpu:
            torch.cuda.synchronize()
        self.mark()

    def mark(self) -> None:
        """A part ends here."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(self._clock())

    def seconds(self) -> list[float]:
        """Of every part."""
        pairs = list(zip(self._marks[:-1], self._marks[1:], strict=True))
        if not self._on_gpu:
            return [end - start for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]
