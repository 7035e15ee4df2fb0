"""How much of a scan each class takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["volumes_ml"]


def volumes_ml(label: npt.NDArray[np.uint8], affine: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, float]:
    """The volume of every class: its voxels times what one of them takes in the world.

    Args:
        label: label map (i, j, k); counted plane by plane.
        affine: voxel to RAS world in mm, (4, 4); it may be tilted, mirrored or sheared.
        class_names: names of the classes, the background, which is left out, first.

    Returns:
        ml by name; 0 for a class that is absent.

    Raises:
        ValueError: the label map has a class without a name.

    Example:
        >>> label = np.ones((10, 10, 10), dtype=np.uint8)
        >>> volumes_ml(label, np.diag([-2.0, 1.0, 1.0, 1.0]), ["background", "mandible", "skull"])
        {'mandible': 2.0, 'skull': 0.0}
    """
    voxel_mm3 = abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])))
    counts = np.zeros(256, dtype=np.int64)
    for plane in label:
        counts += np.bincount(plane.ravel(), minlength=256)
    unnamed = np.flatnonzero(counts[len(class_names) :]) + len(class_names)
    if len(unnamed):
        raise ValueError(
            f"The label map has class {int(unnamed[0])}, but `class_names` has {len(class_names)} names. Give them "
            "all, the background first."
        )
    return {name: float(counts[value]) * voxel_mm3 / 1000.0 for value, name in enumerate(class_names) if value}
