"""What the machine is good at."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["multiplies_bfloat16", "processor_name", "usable_cores"]

# as torch.cpu.get_capabilities names them: x86 since Cooper Lake, Sapphire Rapids and Zen 4; Arm since v8.6
_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for products of bfloat16 matrices, so that mixed precision saves time.

    Without them torch computes such products all the same, on most devices slower than in float32.

    Args:
        device: a CPU or a CUDA device. False for others, and where this torch cannot tell.

    Example:
        >>> multiplies_bfloat16("meta")
        False
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    # younger than the oldest torch we run on
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _CPU_INSTRUCTIONS)


def usable_cores() -> int:
    """Cores that this process may use, which in a job of a cluster are not all.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Name of the CPU, or of its kind where the system does not tell.

    Example:
        >>> bool(processor_name())
        True
    """
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]
