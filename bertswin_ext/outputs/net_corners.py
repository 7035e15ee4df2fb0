"""Which faces of voxels hang together at a corner of the voxel grid: a table of all cases."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["CornerTable", "bit_of", "corner_table", "slot_of"]

Bytes = npt.NDArray[np.uint8]

_SLOTS, _EDGES = 12, 6
_ABSENT = 99


class CornerTable(NamedTuple):
    """What the eight voxels at a corner say, and which edges are flipped.

    A corner has 12 slots for faces between two of its voxels, and 6 edges of the grid, two along each axis. Two faces
    that meet at an edge belong together. Where four meet, the two voxels of the class touch over the edge only: there
    those faces belong together that look into the same gap, so that thin bone is not taken apart. A flipped edge has
    it the other way round. Faces that hang together, directly or through others, are one sheet: one vertex of the net.

    Attributes:
        sheets: number of the sheet of every slot, 0 to 3; uint8 (256, 64, 12), by voxels and flipped edges.
        is_pinched: whether both pairs of faces at an edge are of one sheet; (256, 64, 6).
    """

    sheets: Bytes
    is_pinched: npt.NDArray[np.bool_]


def bit_of(offset: tuple[int, int, int]) -> int:
    """The bit of a voxel among the eight at a corner.

    Args:
        offset: 0 or 1 along i, j, k.
    """
    i, j, k = offset
    return 4 * i + 2 * j + k


def slot_of(axis: int, first: int, second: int) -> int:
    """The slot of the face between two voxels that are neighbours along an axis.

    Args:
        axis: 0, 1 or 2.
        first: offset of both along the next axis, 0 or 1.
        second: the same along the axis after that.
    """
    return 4 * axis + 2 * first + second


@lru_cache(maxsize=1)
def corner_table() -> CornerTable:
    """The table, made once.

    Example:
        >>> int(corner_table().sheets[0b00000001, 0].max())  # one voxel: its three faces are one sheet
        0
        >>> int(corner_table().sheets[0b10000001, 0].max())  # two voxels that share the corner only
        1
    """
    voxels, flips = np.meshgrid(np.arange(256), np.arange(64), indexing="ij")
    is_set = np.stack([voxels >> bit & 1 for bit in range(8)], axis=-1).astype(bool)
    sheets = np.full((256, 64, _SLOTS), _ABSENT, dtype=np.uint8)
    for axis, first, second in product(range(3), (0, 1), (0, 1)):
        low, high = (is_set[..., bit_of(_offset(axis, side, first, second))] for side in (0, 1))
        slot = slot_of(axis, first, second)
        sheets[low != high, slot] = slot
    links = [link for edge in range(_EDGES) for link in _links(edge, is_set, flips)]
    return CornerTable(_numbered(_joined(sheets, links)), _pinched(sheets, is_set))


Link = tuple[int, int, npt.NDArray[np.bool_]]


def _offset(axis: int, along: int, first: int, second: int) -> tuple[int, int, int]:
    """An offset from its parts along an axis and the next two."""
    offset = [0, 0, 0]
    offset[axis], offset[(axis + 1) % 3], offset[(axis + 2) % 3] = along, first, second
    return offset[0], offset[1], offset[2]


def _round_edge(edge: int) -> tuple[list[int], list[int]]:
    """The four voxels round an edge, and the slots of the faces between each and the next."""
    axis, side = divmod(edge, 2)
    bits = [bit_of(_offset(axis, side, *place)) for place in ((0, 0), (1, 0), (1, 1), (0, 1))]
    # a face across the next axis has the offsets of the axis after that and of this one, and so on
    across, beyond = (axis + 1) % 3, (axis + 2) % 3
    slots = [slot_of(across, 0, side), slot_of(beyond, side, 1), slot_of(across, 1, side), slot_of(beyond, side, 0)]
    return bits, slots


def _links(edge: int, is_set: npt.NDArray[np.bool_], flips: npt.NDArray[np.int64]) -> list[Link]:
    """Pairs of slots that belong together at an edge, and in which cases."""
    bits, slots = _round_edge(edge)
    q = [is_set[..., bit] for bit in bits]
    changes = [q[n] != q[(n + 1) % 4] for n in range(4)]
    four = np.logical_and.reduce(changes)
    flipped = (flips >> edge & 1).astype(bool)
    links = [(slots[m], slots[n], changes[m] & changes[n] & ~four) for m in range(4) for n in range(m)]
    # the voxels 1 and 3 are gaps if 0 is set: the faces before and after voxel 1 look into the same one
    links += [(slots[n - 1], slots[n], four & ((q[0] ^ flipped) == bool(n % 2))) for n in range(4)]
    return links


def _joined(sheets: Bytes, links: list[Link]) -> Bytes:
    """Give linked slots one number, until nothing changes."""
    before: Bytes | None = None
    while before is None or not np.array_equal(before, sheets):
        before = sheets.copy()
        for a, b, where in links:
            lower = np.minimum(sheets[..., a], sheets[..., b])
            sheets[..., a] = np.where(where, lower, sheets[..., a])
            sheets[..., b] = np.where(where, lower, sheets[..., b])
    return sheets


def _numbered(sheets: Bytes) -> Bytes:
    """Count the sheets of every case from 0, in place; absent ones get what is not used."""
    is_first = sheets == np.arange(_SLOTS, dtype=np.uint8)
    rank = np.concatenate([np.zeros_like(is_first[..., :1], dtype=np.uint8), is_first.cumsum(-1, dtype=np.uint8)], -1)
    absent = sheets == _ABSENT
    sheets[:] = np.take_along_axis(rank, np.where(absent, 0, sheets).astype(np.intp), axis=-1)
    return sheets


def _pinched(sheets: Bytes, is_set: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the four faces at an edge are of one sheet, for every edge."""
    pinched = np.zeros((256, 64, _EDGES), dtype=bool)
    for edge in range(_EDGES):
        bits, slots = _round_edge(edge)
        q = [is_set[..., bit] for bit in bits]
        four = (q[0] != q[1]) & (q[1] != q[2]) & (q[2] != q[3])
        pinched[..., edge] = four & (sheets[..., slots[0]] == sheets[..., slots[2]])
    return pinched
