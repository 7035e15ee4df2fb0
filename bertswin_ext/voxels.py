"""The voxel contract: what every bundle assumes about its input; and the one fixed point of the HU scale."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AIR_HU", "VOXELS", "VoxelContract"]

AIR_HU = -1000.0


@dataclass(frozen=True)
class VoxelContract:
    """Geometry and intensity of the network's input.

    Attributes:
        spacing_mm: edge of a voxel.
        img_size: edge of the training cube in voxels.
        min_hu: values below are clipped.
        max_hu: values above are clipped.
        mean_hu: subtracted after clipping.
        std_hu: divisor after that.

    Source: arXiv 2512.21769, section 4.

    Example:
        >>> VOXELS.normalized(-21.14)
        0.0
    """

    spacing_mm: float = 0.2
    img_size: int = 224
    min_hu: float = -1011.0
    max_hu: float = 1992.0
    mean_hu: float = -21.14
    std_hu: float = 578.02

    def normalized(self, hu: float) -> float:
        """A value in HU as the network sees it."""
        return (hu - self.mean_hu) / self.std_hu


VOXELS = VoxelContract()
