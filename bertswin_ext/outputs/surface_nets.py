"""The closed net of faces round a mask of voxels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertswin_ext.outputs.net_corners import bit_of, corner_table, slot_of

__all__ = ["SurfaceNet", "surface_net"]

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_AROUND = ((1, 1), (0, 1), (0, 0), (1, 0))  # a face's voxel as seen from its four corners, in a circle


class SurfaceNet(NamedTuple):
    """The faces between the voxels of a mask and the others.

    Attributes:
        corners_vox: the vertices, float32 (n, 3): corners of voxels, in indices of the mask.
        faces: four vertices each, int32 (m, 4), counter-clockwise as seen from outside.
    """

    corners_vox: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]


def surface_net(mask: Mask) -> SurfaceNet:
    """The faces of a mask as a closed net; where the volume ends, the mask does.

    Every edge of the net has two faces, and the faces at a vertex are one sheet: where sheets touch at a corner each
    has a vertex of its own there. Voxels of the class that share an edge hang together, as far as that allows it;
    those that share a corner do not.

    Args:
        mask: (i, j, k).

    Returns:
        The net; empty for an empty mask.

    Source: the net of S. F. F. Gibson, "Constrained elastic surface nets", MICCAI 1998, before it is relaxed. There
        sheets that touch share a vertex.

    Example:
        >>> net = surface_net(np.ones((1, 1, 2), dtype=bool))
        >>> net.corners_vox.shape, net.faces.shape
        ((12, 3), (10, 4))
    """
    padded = np.pad(mask, 1)
    cells, slots = _faces(padded)
    corners = _used(cells, padded.size)
    voxels = _voxels_at(padded, corners)
    flips = _flipped_edges(padded.shape, corners, voxels)
    rows = np.searchsorted(corners, cells)
    sheets = corner_table().sheets[voxels[rows], flips[rows], slots]
    faces, owners = _numbered(4 * rows + sheets)
    index = np.stack(np.unravel_index(corners[owners // 4], padded.shape), axis=1)
    return SurfaceNet(index.astype(np.float32) - np.float32(0.5), faces)


def _strides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Steps to the next voxel along every axis, in a flat volume."""
    return shape[1] * shape[2], shape[2], 1


def _faces(padded: Mask) -> tuple[Ids, Bytes]:
    """The corners of every face, (m, 4), as the flat index of their lowest voxel; and the face's slot at each."""
    parts = list(_faces_by_axis(padded))
    return np.concatenate([cells for cells, _ in parts]), np.concatenate([slots for _, slots in parts])


def _faces_by_axis(padded: Mask) -> Iterator[tuple[Ids, Bytes]]:
    """The faces across each axis."""
    flat, steps = padded.ravel(), _strides(padded.shape)
    for axis, step in enumerate(steps):
        first, second = steps[(axis + 1) % 3], steps[(axis + 2) % 3]
        # the empty voxels all round keep the end of a line apart from the start of the next one
        low = np.flatnonzero(flat[:-step] != flat[step:])
        around = np.array([a * first + b * second for a, b in _AROUND])
        slots = np.array([slot_of(axis, a, b) for a, b in _AROUND], dtype=np.uint8)
        inward = ~flat[low]
        cells, places = low[:, None] - around, np.tile(slots, (len(low), 1))
        cells[inward], places[inward] = cells[inward, ::-1], places[inward, ::-1]
        yield cells, places


def _used(cells: Ids, size: int) -> Ids:
    """The corners that faces have, in order."""
    is_used = np.zeros(size, dtype=bool)
    is_used[cells] = True
    return np.flatnonzero(is_used)


def _voxels_at(padded: Mask, corners: Ids) -> Bytes:
    """The eight voxels at every corner, one bit each."""
    flat, steps = padded.ravel(), _strides(padded.shape)
    voxels = np.zeros(len(corners), dtype=np.uint8)
    for i, j, k in product((0, 1), (0, 1), (0, 1)):
        step = i * steps[0] + j * steps[1] + k * steps[2]
        voxels |= flat[corners + step].astype(np.uint8) << np.uint8(bit_of((i, j, k)))
    return voxels


def _flipped_edges(shape: tuple[int, ...], corners: Ids, voxels: Bytes) -> Bytes:
    """Edges, as bits at their corners, whose four faces would otherwise hang between the same two vertices.

    A flip takes a sheet apart at both ends of an edge. Edges that share a corner are looked at one after the other,
    or two flips could undo each other.
    """
    table, flips = corner_table(), np.zeros_like(voxels)
    for axis, step in enumerate(_strides(shape)):
        ahead, behind = 2 * axis + 1, 2 * axis
        low = np.flatnonzero(table.is_pinched[voxels, 0, ahead])
        odd = corners[low] // step % shape[axis] % 2 == 1
        for some in (low[odd], low[~odd]):
            other = np.searchsorted(corners, corners[some] + step)
            both = table.is_pinched[voxels[some], flips[some], ahead]
            both &= table.is_pinched[voxels[other], flips[other], behind]
            flips[some[both]] |= np.uint8(1 << ahead)
            flips[other[both]] |= np.uint8(1 << behind)
    return flips


def _numbered(keys: Ids) -> tuple[npt.NDArray[np.int32], Ids]:
    """Keys of vertices counted without gaps, and the key of every vertex."""
    is_used = np.zeros(int(keys.max(initial=-1)) + 1, dtype=bool)
    is_used[keys] = True
    number = np.cumsum(is_used, dtype=np.int32) - np.int32(1)
    return number[keys], np.flatnonzero(is_used)
