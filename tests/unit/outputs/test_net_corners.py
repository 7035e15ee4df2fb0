"""Which faces hang together at a corner."""

from itertools import product

import numpy as np
import pytest

from bertswin_ext.outputs.net_corners import bit_of, corner_table, slot_of

CORNERS = list(product((0, 1), repeat=3))


def voxels(*offsets):
    return sum(1 << bit_of(offset) for offset in offsets)


def number_of_sheets(case, flips=0):
    """Sheets of the slots whose two voxels differ."""
    return len({int(sheet) for slot, sheet in slots_of(case, flips).items()})


def slots_of(case, flips=0):
    found = {}
    for axis, first, second in product(range(3), (0, 1), (0, 1)):
        pair = [[0, 0, 0], [0, 0, 0]]
        for side in (0, 1):
            pair[side][axis], pair[side][(axis + 1) % 3], pair[side][(axis + 2) % 3] = side, first, second
        low, high = (case >> bit_of(tuple(offset)) & 1 for offset in pair)
        if low != high:
            found[slot_of(axis, first, second)] = corner_table().sheets[case, flips, slot_of(axis, first, second)]
    return found


def test_every_voxel_has_its_bit_and_every_face_its_slot():
    assert sorted(map(bit_of, CORNERS)) == list(range(8))
    assert sorted(slot_of(axis, a, b) for axis, a, b in product(range(3), (0, 1), (0, 1))) == list(range(12))


@pytest.mark.parametrize("offset", CORNERS)
def test_one_voxel_or_one_hole_is_one_sheet_of_three_faces(offset):
    for case in (voxels(offset), 255 - voxels(offset)):
        assert len(slots_of(case)) == 3
        assert number_of_sheets(case) == 1


def test_a_plane_is_one_sheet_of_four_faces():
    case = voxels(*(offset for offset in CORNERS if offset[1]))
    assert len(slots_of(case)) == 4
    assert number_of_sheets(case) == 1


def test_voxels_at_a_corner_are_apart_and_so_are_two_holes_there():
    case = voxels((0, 0, 0), (1, 1, 1))
    assert number_of_sheets(case) == 2
    assert number_of_sheets(255 - case) == 2


def test_voxels_at_an_edge_hang_together_unless_it_is_flipped():
    """Two columns that touch along k: the gaps on both sides are two sheets; flipped, the columns are."""
    columns = ((0, 0), (1, 1))
    case = voxels(*((*column, k) for column in columns for k in (0, 1)))
    joined, flipped = slots_of(case), slots_of(case, flips=0b110000)
    assert len(set(joined.values())) == len(set(flipped.values())) == 2
    # the faces of the gap (1, 0): across i towards column (0, 0), across j towards column (1, 1)
    towards_first, towards_second = slot_of(0, 0, 0), slot_of(1, 0, 1)
    assert joined[towards_first] == joined[towards_second]
    assert flipped[towards_first] != flipped[towards_second]


def test_two_voxels_at_an_edge_pinch_it():
    """Nothing beyond: their six faces are one sheet that passes the edge twice; flipped they are two."""
    case = voxels((0, 0, 1), (1, 1, 1))
    assert number_of_sheets(case) == 1
    assert np.flatnonzero(corner_table().is_pinched[case, 0]).tolist() == [5]
    assert number_of_sheets(case, flips=1 << 5) == 2
    assert not corner_table().is_pinched[case, 1 << 5].any()


def test_sheets_are_counted_from_0_in_every_case():
    for case in range(256):
        numbers = {int(sheet) for sheet in slots_of(case).values()}
        assert numbers == set(range(len(numbers)))
        assert len(numbers) <= 4
