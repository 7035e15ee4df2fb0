"""The label map of a drawn jaw, with every tissue that a map can have."""

import numpy as np

MM = 0.8
AFFINE = np.diag([MM, MM, MM, 1.0])
AFFINE[:3, 3] = [-20.0, -30.0, 15.0]
HALF_AFFINE = np.diag([2 * MM, 2 * MM, 2 * MM, 1.0])
HALF_AFFINE[:3, 3] = AFFINE[:3, 3]
SKULL_HOLLOW = np.s_[28:36, 18:26, 50:56]
MANDIBLE_HOLLOW = np.s_[26:38, 38:42, 16:20]


def drawn_map():
    """Boxes and a cylinder, RAS: skull above, a chin in front, one condyle at the back, two teeth."""
    label = np.zeros((64, 64, 64), np.int16)
    label[16:48, 14:50, 46:58] = 1
    label[SKULL_HOLLOW] = 0
    label[20:44, 34:46, 10:24] = 2
    label[MANDIBLE_HOLLOW] = 0
    i, j = np.ogrid[:64, :64]
    label[(i - 24) ** 2 + (j - 22) ** 2 < 7**2, 18:41] = 2
    label[26:38, 36:44, 20:31] = 4  # its root is in the bone
    label[26:38, 36:44, 36:48] = 3
    label[30:34, 34:46, 12:15] = 5
    return label


def half_map():
    """The same jaw in voxels of twice the size, see ``HALF_AFFINE``."""
    return drawn_map()[::2, ::2, ::2]


def eroded(mask, voxels):
    """What is left of a mask without its outermost voxels."""
    for _ in range(voxels):
        padded = np.pad(mask, 1)
        shifted = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
        mask = mask & np.logical_and.reduce(shifted)[1:-1, 1:-1, 1:-1]
    return mask
