"""What an item says of its joint: where it is and on which side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import times
from bertswin_ext.geometry import Floats, is_inside, moved
from bertswin_ext.transforms.volume_grid import VolumeGrid

__all__ = ["is_left", "joint_vox"]


def is_left(joint: str | None, grid: VolumeGrid) -> bool:
    """Tell whether a joint is a left one; None is not.

    Raises:
        ValueError: it is neither left nor right.

    Example:
        >>> is_left("left", VolumeGrid((2, 2, 2), np.eye(4), None))
        True
    """
    if joint not in (None, "left", "right"):
        raise ValueError(f'{grid.name}: `joint` must be "left" or "right", got {joint!r}. Correct it there.')
    return joint == "left"


def joint_vox(center_mm: npt.ArrayLike, grid: VolumeGrid) -> Floats:
    """Index in the volume of the joint.

    Args:
        center_mm: the joint in the RAS world.
        grid: of the volume.

    Raises:
        ValueError: the joint is no point, or not in the volume.

    Example:
        >>> joint_vox([1.0, 0.0, 3.0], VolumeGrid((4, 4, 4), np.eye(4), None)).tolist()
        [1.0, 0.0, 3.0]
    """
    center = np.asarray(center_mm, dtype=np.float64)
    if center.shape != (3,) or not np.isfinite(center).all():
        raise ValueError(f"{grid.name}: the joint's centre must be 3 finite numbers in mm, got {center_mm!r}.")
    index = moved(np.linalg.inv(grid.affine), center)
    if not is_inside(index, grid.shape):
        raise ValueError(
            f"{grid.name}: the joint's centre {center.round(2).tolist()} mm (RAS) is voxel "
            f"{index.round(1).tolist()}, outside the volume of {times(grid.shape)} voxels. Correct it where it "
            "was given."
        )
    return index
