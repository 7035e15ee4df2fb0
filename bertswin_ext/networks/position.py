"""Fixed positions of the tokens of a 3D grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["sincos_position_table"]


def sincos_position_table(grid_size: Sequence[int], hidden_size: int) -> torch.Tensor:
    """Sine-cosine table of the integer positions of a grid.

    A third of the channels per axis, axes in the order i, j, k; each third is [sin(g * w), cos(g * w)] with
    w_m = 10000 ** (-m / (hidden_size / 6)).

    Args:
        grid_size: tokens per axis (gi, gj, gk).
        hidden_size: width of a token, divisible by 6.

    Returns:
        Float32 table (1, n, h), tokens in C order.

    Raises:
        ValueError: ``hidden_size`` is not divisible by 6.

    Source: arXiv 2512.21769, section 3. Equals MONAI's ``build_sincos_position_embedding`` with the first two
    thirds of the channels swapped.

    Example:
        >>> sincos_position_table((2, 2, 2), 12).shape
        torch.Size([1, 8, 12])
    """
    if hidden_size % 6:
        raise ValueError(f"`hidden_size` must be divisible by 6 (sine and cosine on three axes), got {hidden_size}.")
    num_frequencies = hidden_size // 6
    steps = torch.arange(num_frequencies, dtype=torch.float32)
    frequencies = torch.exp(steps * -(math.log(10000.0) / num_frequencies))
    thirds = []
    for axis, size in enumerate(grid_size):
        angles = torch.arange(size, dtype=torch.float32)[:, None] * frequencies
        shape = [1, 1, 1, 2 * num_frequencies]
        shape[axis] = size
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).view(shape)
        thirds.append(waves.expand(*grid_size, 2 * num_frequencies))
    return torch.cat(thirds, dim=-1).reshape(1, -1, hidden_size)
