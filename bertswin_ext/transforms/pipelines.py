"""Chains of transforms that bundles share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
    Transform,
)

from bertswin_ext.transforms.checks import CheckSized, CheckVolumed
from bertswin_ext.transforms.masking import RandTokenNoised
from bertswin_ext.voxels import VOXELS

__all__ = ["pretraining_transforms", "volume_preprocessing"]


def volume_preprocessing(
    roi_size: int | Sequence[int], spacing_mm: float | Sequence[float] = VOXELS.spacing_mm, reader: Any = None
) -> list[Transform]:
    """From a file to a checked volume in the network's voxels: RAS axes, resampled, clipped, standardized.

    Resampling gives round((n - 1) * old / new) + 1 voxels, which is one less than fit into the volume when the spacing
    is halved. So a volume that is one voxel short of the crop is padded with its outermost voxels; a smaller one is
    refused.

    Args:
        roi_size: voxels per axis of the crop that must fit in.
        spacing_mm: edge of a voxel, one number or three.
        reader: reader of the files, MONAI's choice when None.

    Returns:
        Transforms of ``image``.
    """
    spacing = [spacing_mm] * 3 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    return [
        LoadImaged(keys="image", reader=reader),
        EnsureChannelFirstd(keys="image"),
        CheckVolumed(keys="image"),
        Orientationd(keys="image", axcodes="RAS", labels=None),
        Spacingd(keys="image", pixdim=spacing, mode="bilinear"),
        CheckSized(keys="image", roi_size=roi_size, tolerance_vox=1),
        SpatialPadd(keys="image", spatial_size=roi_size, mode="edge"),
        ScaleIntensityRanged(
            keys="image",
            a_min=VOXELS.min_hu,
            a_max=VOXELS.max_hu,
            b_min=VOXELS.normalized(VOXELS.min_hu),
            b_max=VOXELS.normalized(VOXELS.max_hu),
            clip=True,
        ),
    ]


def pretraining_transforms(
    roi_size: int | Sequence[int],
    patch_size: int,
    spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
    random: bool = True,
    reader: Any = None,
) -> Compose:
    """From a file to a training sample: ``image`` (1, i, j, k) and ``noise`` (n,).

    Args:
        roi_size: voxels per axis of the crop.
        patch_size: edge of a token in voxels.
        spacing_mm: edge of a voxel, one number or three.
        random: crop anywhere; False crops the centre, for validation.
        reader: reader of the files, MONAI's choice when None.

    Returns:
        The chain; what comes before the crop is deterministic and can be cached.
    """
    crop = RandSpatialCropd(keys="image", roi_size=roi_size, random_size=False)
    if not random:
        crop = CenterSpatialCropd(keys="image", roi_size=roi_size)
    return Compose(
        [
            *volume_preprocessing(roi_size, spacing_mm, reader),
            crop,
            RandTokenNoised(roi_size, patch_size),
            SelectItemsd(keys=["image", "noise"]),
            EnsureTyped(keys=["image", "noise"], track_meta=False),
        ]
    )
