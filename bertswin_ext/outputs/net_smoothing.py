"""Smoothing a net of faces as far as its voxels allow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from bertswin_ext.outputs.surface_nets import SurfaceNet

__all__ = ["REACH_VOX", "smoothed"]

REACH_VOX = 0.45
"""The furthest that a vertex moves along each axis. Up to 0.5 all centres of voxels stay on their side."""

_ROUNDS = 40
_INWARD, _OUTWARD = 0.7, -0.71  # waves of more than some 20 voxels stay


def smoothed(net: SurfaceNet) -> npt.NDArray[np.float32]:
    """The vertices of a net, moved so that the surface is smooth.

    Every vertex goes towards the middle of its neighbours and back a little further, which takes away steps between
    voxels and neither shrinks nor swells the whole. None goes further than `REACH_VOX`: thin bone stays, small holes
    and gaps stay open.

    Args:
        net: a closed one.

    Returns:
        Positions in indices of voxels, (n, 3).

    Source: G. Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995; the limits are those of
        S. F. F. Gibson, "Constrained elastic surface nets", MICCAI 1998.

    Example:
        >>> from bertswin_ext.outputs.surface_nets import surface_net
        >>> plate = np.zeros((33, 33, 9), dtype=bool)
        >>> plate[:, :, 4] = True
        >>> places = smoothed(surface_net(plate))  # it is one voxel thin, and stays so
        >>> sorted({round(float(z), 1) for x, y, z in places if 8 < x < 24 and 8 < y < 24})
        [3.5, 4.5]
    """
    if not len(net.faces):
        return net.corners_vox
    neighbours, starts = _neighbours(net)
    first = torch.from_numpy(net.corners_vox)
    low, high = first - REACH_VOX, first + REACH_VOX
    places = first
    for _ in range(_ROUNDS):
        for step in (_INWARD, _OUTWARD):
            places = torch.lerp(places, embedding_bag(neighbours, places, starts, mode="mean"), step)
        places = places.clamp(low, high)
    return np.asarray(places.numpy())


def _neighbours(net: SurfaceNet) -> tuple[Tensor, Tensor]:
    """The neighbours of all vertices, one vertex after the other, and where those of each begin."""
    ahead = np.roll(net.faces, -1, axis=1).ravel()
    # an edge of a closed net is passed once each way, so the next vertices in its faces are all neighbours
    order = np.argsort(net.faces, axis=None, kind="stable")
    counts = np.bincount(net.faces.ravel(), minlength=len(net.corners_vox))
    starts = np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.int32)
    return torch.from_numpy(ahead[order]), torch.from_numpy(starts)
