"""Means over the cubes that a volume is cut into, and values per cube laid over its voxels, without moving voxels."""

from __future__ import annotations

import torch

__all__ = ["as_rows", "as_volume", "cube_means", "over_rows"]


def as_rows(x: torch.Tensor, size: int) -> torch.Tensor:
    """View a volume (..., i, j, k) as (..., i / size, size, j / size, size, k): rows stay whole."""
    return x.unflatten(-3, (-1, size)).unflatten(-2, (-1, size))


def as_volume(rows: torch.Tensor) -> torch.Tensor:
    """The volume (..., i, j, k) that `as_rows` made rows of."""
    return rows.flatten(-5, -4).flatten(-3, -2)


def over_rows(values: torch.Tensor, size: int) -> torch.Tensor:
    """Values of cubes (..., ni, nj, nk) as (..., ni, 1, nj, 1, k), to be broadcast over the rows of `as_rows`."""
    rows = values[..., None].expand(*values.shape, size).flatten(-2)
    return rows[..., :, None, :, None, :]


def cube_means(x: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over every cube of a volume.

    Cutting a volume up moves voxels by a few at a time, which takes longer than all arithmetic of a loss; sums over
    whole rows first do not.

    Args:
        x: (..., i, j, k), floating point, of any strides.
        size: edge of a cube in voxels, a divisor of i, j and k.

    Returns:
        (..., i / size, j / size, k / size).

    Example:
        >>> cube_means(torch.eye(4).expand(4, 4, 4), 2)[0]
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    # one axis at a time: reductions over several axes that are not neighbours are ten times as slow on a CPU
    rows = as_rows(x, size).sum(-4).sum(-2)
    return rows.unflatten(-1, (-1, size)).sum(-1) / size**3
