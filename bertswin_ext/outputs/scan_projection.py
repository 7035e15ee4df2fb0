"""A whole scan as seen through from three sides, coarse, like a radiograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bertswin_ext.evaluation.case_planes import CasePlanes, Plane
from bertswin_ext.voxels import AIR_HU

__all__ = ["projected"]

_SAMPLES = 256
_DENSEST_HU = 3000.0
_SHOWN_HU = (-850.0, 1650.0)  # what pictures show as black and white
_BRIGHTEST = 0.995

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def projected(
    image_hu: npt.NDArray[np.generic], label: Labels, spacing_mm: Sequence[float], title: str = ""
) -> CasePlanes:
    """Project a scan and its label along each axis.

    A pixel is the mean of the density behind it, stretched to the greys of the pictures, and the first class there:
    the mandible is not hidden by the skull.
    Of an axis no more than some 256 voxels are looked at, one plane of voxels at a time.

    Args:
        image_hu: HU.
        label: label map on the same grid.
        spacing_mm: edges of a voxel along i, j, k.
        title: what is written above the pictures.

    Shape:
        The volumes are (i, j, k), in RAS order.

    Returns:
        Three pictures as planes; they meet in the middle of the scan.

    Example:
        >>> image = np.zeros((600, 4, 8), dtype=np.int16)
        >>> planes = projected(image, image.astype(np.uint8), (0.2, 0.2, 0.2)).planes
        >>> [plane.image_hu.shape for plane in planes]
        [(4, 8), (200, 8), (200, 4)]
    """
    steps = [max(1, -(-size // _SAMPLES)) for size in image_hu.shape]
    some = tuple(slice(step // 2, None, step) for step in steps)
    views = _through(image_hu[some])
    # the background, made the largest number, is what is left where there is no class
    classes = [(label[some] - np.uint8(1)).min(axis=axis) + np.uint8(1) for axis in range(3)]
    planes = tuple(Plane(axis, _stretched(views[axis]), classes[axis], None) for axis in range(3))
    shown_mm = tuple(float(mm) * step for mm, step in zip(spacing_mm, steps, strict=True))
    i, j, k = (size // 2 for size in classes[2].shape + classes[0].shape[1:])
    return CasePlanes(planes, (i, j, k), shown_mm, title)


def _through(image_hu: npt.NDArray[np.generic]) -> tuple[Floats, Floats, Floats]:
    """Sums of the density along each axis."""
    along_i = np.zeros(image_hu.shape[1:], dtype=np.float32)
    along_j, along_k = (np.zeros((image_hu.shape[0], size), dtype=np.float32) for size in image_hu.shape[:0:-1])
    for i, plane in enumerate(image_hu):
        density = np.nan_to_num(plane.astype(np.float32), nan=AIR_HU).clip(AIR_HU, _DENSEST_HU) - AIR_HU
        along_i += density
        along_j[i], along_k[i] = density.sum(axis=0), density.sum(axis=1)
    return along_i, along_j, along_k


def _stretched(view: Floats) -> npt.NDArray[np.int16]:
    """Densities as HU that are shown from black to white."""
    low, high = float(view.min()), float(np.quantile(view, _BRIGHTEST))
    share = (view - low) / max(high - low, 1e-6)
    black, white = _SHOWN_HU
    return np.asarray((black + share.clip(0, 1) * (white - black)).astype(np.int16))
