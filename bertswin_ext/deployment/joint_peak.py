"""From the scores of all places to one place and its probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["RADIUS_MM", "peak_of"]

RADIUS_MM = 10.0
"""Scores within this distance of the peak are for the same place."""


def peak_of(scores: Tensor, spacing_mm: float) -> tuple[tuple[float, float, float], float]:
    """The likeliest place, and the probability that what is looked for is within 10 mm of it.

    The place is the mean of the voxels within 10 mm of the highest score, by their probability, so it is finer than
    the voxels.

    Args:
        scores: (i, j, k); "nowhere" has the score 0.
        spacing_mm: edge of a voxel.

    Returns:
        The index in voxels, with fractions, and the probability.

    Example:
        >>> scores = torch.full((9, 9, 9), -50.0)
        >>> scores[4, 4, 4:6] = 5.0
        >>> index, probability = peak_of(scores, spacing_mm=4.0)
        >>> index, round(probability, 2)
        ((4.0, 4.0, 4.5), 1.0)
    """
    flat = scores.double().flatten()
    # one more score, that of "nowhere"
    everything = torch.logaddexp(flat.logsumexp(0), flat.new_zeros(()))
    probability = (flat - everything).exp().reshape(scores.shape)
    box, near = _surroundings(scores, spacing_mm)
    here = probability[box] * near
    total = float(here.sum())
    start = [s.start for s in box]
    return _mean_index(here, start), min(1.0, total)


def _surroundings(scores: Tensor, spacing_mm: float) -> tuple[tuple[slice, ...], Tensor]:
    """A box about the highest score, and which of its voxels are near."""
    peak = [int(n) for n in torch.unravel_index(scores.argmax(), scores.shape)]
    reach = math.floor(RADIUS_MM / spacing_mm)
    box = tuple(slice(max(0, p - reach), min(n, p + reach + 1)) for p, n in zip(peak, scores.shape, strict=True))
    steps = torch.meshgrid(
        *(torch.arange(s.start - p, s.stop - p) for s, p in zip(box, peak, strict=True)), indexing="ij"
    )
    distance = spacing_mm * torch.stack(steps).double().square().sum(0).sqrt()
    return box, distance <= RADIUS_MM


def _mean_index(weights: Tensor, start: list[int]) -> tuple[float, float, float]:
    """Where the weights lie on average; of no weight at all, the middle."""
    weights = weights if float(weights.sum()) > 0 else torch.ones_like(weights)
    total = weights.sum()
    i, j, k = (
        first + float((weights.sum(dim=[d for d in range(3) if d != axis]) * torch.arange(n)).sum() / total)
        for axis, (n, first) in enumerate(zip(weights.shape, start, strict=True))
    )
    return i, j, k
