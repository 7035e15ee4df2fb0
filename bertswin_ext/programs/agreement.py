"""Whether two networks say the same, voxel for voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from bertswin_ext.voxels import VOXELS

__all__ = ["Agreement", "compare_logits", "ct_like"]

_COARSE = 8
_LOW_HU, _HIGH_HU, _NOISE_HU = -1000.0, 1900.0, 60.0


@dataclass(frozen=True)
class Agreement:
    """How far two outputs lie apart.

    Attributes:
        largest: greatest absolute difference of the logits.
        same_labels: share of the voxels whose greatest logit is the same one.
    """

    largest: float
    same_labels: float


def ct_like(shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Smooth shapes between air and bone with noise on them, standardized like the networks' input.

    Args:
        shape: (b, c, i, j, k).
        seed: another one gives another input.

    Example:
        >>> image = ct_like((1, 1, 32, 32, 32))
        >>> image.shape, bool(image.std() > 0.5)
        (torch.Size([1, 1, 32, 32, 32]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = [max(2, size // _COARSE) for size in shape[2:]]
    smooth = torch.rand(*shape[:2], *coarse, generator=generator)
    hu = _LOW_HU + (_HIGH_HU - _LOW_HU) * F.interpolate(smooth, size=tuple(shape[2:]), mode="trilinear")
    hu = hu + _NOISE_HU * torch.randn(tuple(shape), generator=generator)
    return (hu.clamp(VOXELS.min_hu, VOXELS.max_hu) - VOXELS.mean_hu) / VOXELS.std_hu


def compare_logits(one: torch.Tensor, other: torch.Tensor) -> Agreement:
    """How far the logits of two networks lie apart.

    Args:
        one: (b, classes, i, j, k).
        other: of the same shape.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> compare_logits(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))
        Agreement(largest=0.0, same_labels=1.0)
    """
    if one.shape != other.shape:
        raise ValueError(f"The outputs must have the same shape, got {tuple(one.shape)} and {tuple(other.shape)}.")
    other = other.to(one)
    same = (one.argmax(1) == other.argmax(1)).double().mean().item()
    return Agreement((one - other).abs().amax().item(), same)
