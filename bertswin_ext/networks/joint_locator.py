"""A small network that says, voxel by voxel of a coarse scan, where its left and its right joint may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import UNet
from torch import Tensor, nn

__all__ = ["JointLocator"]

_USUAL_VOXELS = 40**3


class JointLocator(nn.Module):
    """A U-Net whose two outputs are scores of places: channel 0 for the left joint, channel 1 for the right one.

    A joint is somewhere or nowhere: the softmax over the scores of all voxels and one more score, which is fixed at 0
    and stands for "not in this scan", gives the probability of each. So whether there is a joint and where it is come
    from the same numbers.

    Args:
        channels: features of the U-Net's levels, finest first; every level but the first has half the voxels per axis.

    Shape:
        A standardized volume (b, 1, i, j, k) of any size gives scores (b, 2, i, j, k).

    Raises:
        ValueError: there are less than two levels.

    Source: the U-Net is MONAI's; the softmax over places and "nowhere" is ours.

    Example:
        >>> JointLocator(channels=(4, 8))(torch.zeros(1, 1, 9, 10, 11)).shape
        torch.Size([1, 2, 9, 10, 11])
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 48, 48)) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"`channels` must name at least two levels, got {tuple(channels)}. Use (16, 32, 48, 48).")
        self.arguments = {"channels": list(channels)}
        self.multiple = 2 ** (len(channels) - 1)
        self.unet = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=2,
            channels=tuple(channels),
            strides=(2,) * (len(channels) - 1),
            norm="batch",
        )
        # a fresh network finds each joint as likely as not, anywhere
        self.offset = nn.Parameter(torch.full((2, 1, 1, 1), -math.log(_USUAL_VOXELS)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of all voxels."""
        size = x.shape[2:]
        missing = [-n % self.multiple for n in size]
        padded = F.pad(x, [n for m in reversed(missing) for n in (0, m)], mode="constant", value=float(x.min()))
        scores: Tensor = self.unet(padded)[..., : size[0], : size[1], : size[2]]
        return scores + self.offset
