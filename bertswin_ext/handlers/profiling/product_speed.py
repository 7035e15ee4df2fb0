"""How fast a device multiplies matrices."""

from __future__ import annotations

import torch

from bertswin_ext.handlers.profiling.part_times import PartTimes

__all__ = ["product_speed"]

# large enough that the device, and not the call, is measured
_SIZES = {"cpu": 1024, "cuda": 4096}
_REPEATS = 4


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second in the product of two large matrices, the best of a few.

    It takes a fraction of a second and no random numbers.

    Args:
        device: where to multiply.
        dtype: of the matrices.

    Example:
        >>> product_speed(torch.device("cpu"), torch.float32) > 0
        True
    """
    size = _SIZES.get(device.type, 1024)
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    times = PartTimes(device)
    for _ in range(_REPEATS):
        times.enter("data")
        torch.mm(matrix, matrix)
        times.enter(None)
    return float(2 * size**3 / min(times.iteration_seconds()))
