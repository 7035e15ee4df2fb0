"""Chains of transforms that bundles share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    SpatialPadd,
    Transform,
)

from bertswin_ext.transforms.alias import Aliasd
from bertswin_ext.transforms.check_label import CheckLabeld
from bertswin_ext.transforms.checks import CheckSized, CheckVolumed
from bertswin_ext.transforms.ct_noise import RandCTNoised
from bertswin_ext.transforms.fov import TokenValidityd
from bertswin_ext.transforms.hu_warp import RandHUWarpd
from bertswin_ext.transforms.joint_crop import RandJointCropd
from bertswin_ext.transforms.joint_region import JointRegiond
from bertswin_ext.transforms.labelled import Labelledd
from bertswin_ext.transforms.masking import RandTokenNoised
from bertswin_ext.transforms.resample_crop import ResampleCropd
from bertswin_ext.transforms.resampled import Resampled
from bertswin_ext.transforms.seed import RandSeedd
from bertswin_ext.transforms.standardize import StandardizeHUd
from bertswin_ext.transforms.stored import OpenStoredd
from bertswin_ext.voxels import VOXELS

__all__ = ["device_transforms", "pretraining_transforms", "volume_preprocessing"]


def volume_preprocessing(
    roi_size: int | Sequence[int],
    spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
    reader: Any = None,
    with_label: bool = False,
    class_names: Sequence[str] | None = None,
    region_mm: float | Sequence[float] | None = None,
) -> list[Transform]:
    """From a file to a checked volume in the network's voxels: RAS axes, resampled, still in HU.

    Resampling gives round((n - 1) * old / new) + 1 voxels, which is one less than fit into the volume when the spacing
    is halved. So a volume that is one voxel short of the crop is padded with its outermost voxels; a smaller one is
    refused.

    Args:
        roi_size: voxels per axis of the crop that must fit in.
        spacing_mm: edge of a voxel, one number or three.
        reader: reader of the files, MONAI's choice when None.
        with_label: do the same with ``label``, where an item has one.
        class_names: names of the labels' values from 0 on; labels that are not of the image, or hold other values, are
            refused. None: labels are not checked.
        region_mm: edges of the box around the joint that is kept; None, or no ``center_mm``: the whole volume.

    Returns:
        Transforms of ``image``, and of ``label``.
    """
    spacing = [spacing_mm] * 3 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    keys = ["image", "label"] if with_label else ["image"]
    optional: dict[str, Any] = {"keys": keys, "allow_missing_keys": True}
    return [
        LoadImaged(**optional, reader=reader),
        EnsureChannelFirstd(**optional),
        CheckVolumed(keys="image"),
        *([CheckLabeld(labels=class_names, allow_missing_keys=True)] if class_names else []),
        Orientationd(**optional, axcodes="RAS", labels=None),
        JointRegiond(**optional, size_mm=region_mm),
        Resampled(**optional, pixdim=spacing, mode=["bilinear", "nearest"][: len(keys)]),
        CheckSized(keys="image", roi_size=roi_size, tolerance_vox=1),
        SpatialPadd(**optional, spatial_size=roi_size, mode="edge"),
    ]


def pretraining_transforms(
    roi_size: int | Sequence[int],
    patch_size: int,
    spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
    random: bool = True,
    reader: Any = None,
    prepared: bool = False,
    with_label: bool = False,
    core_size: int | Sequence[int] | None = None,
    rotate_range_deg: float = 12.0,
    scale_range: Sequence[float] = (0.9, 1.1),
    mask_block_size: int = 1,
) -> Compose:
    """What a loader's worker does: from an item of a datalist to the voxels of a crop; `device_transforms` finishes it.

    Args:
        roi_size: voxels per axis of the crop.
        patch_size: edge of a token in voxels.
        spacing_mm: edge of a voxel, one number or three.
        random: crop at random round the joint, or anywhere where an item has no ``center_mm``; False crops the middle,
            for validation.
        reader: reader of the files, MONAI's choice when None.
        prepared: the volumes were written by ``python -m bertswin_ext prepare``, and only the box is read.
        with_label: hand on the labels of the items that have one.
        core_size: voxels round the joint that stay inside every crop; 140 of 224 when None.
        rotate_range_deg: largest rotation about each axis.
        scale_range: smallest and largest scale.
        mask_block_size: tokens are hidden in cubes of so many tokens per axis, see `RandTokenNoised`; it changes
            nothing but the mask. With ``random=False`` single tokens are hidden whatever it says, so that networks that
            were trained with different masks are measured with the same ones.

    Returns:
        The chain; what comes before the crop is deterministic and can be cached.
    """
    keys = ["image", "label"] if with_label else ["image"]
    volumes = volume_preprocessing(roi_size, spacing_mm, reader, with_label)
    if prepared:
        volumes = [OpenStoredd(keys, spacing_mm, allow_missing_keys=True)]
    crop = RandJointCropd(
        keys,
        roi_size,
        core_size=core_size,
        rotate_range_deg=rotate_range_deg,
        scale_range=scale_range,
        random=random,
        allow_missing_keys=True,
    )
    mask = RandTokenNoised(roi_size, patch_size, block_size=mask_block_size if random else 1)
    return Compose([*volumes, crop, mask, RandSeedd()])


def device_transforms(
    patch_size: int,
    with_label: bool = False,
    warp_prob: float = 0.0,
    noise_prob: float = 0.0,
    with_valid: bool = True,
) -> Compose:
    """What is left to do with a crop, on a GPU if there is one: one resampling, the field of view, and disturbances.

    Args:
        patch_size: edge of a token in voxels.
        with_label: also resample labels; items without one get an empty one, and ``has_label`` False.
        warp_prob: how often HU are warped.
        noise_prob: how often noise is added.
        with_valid: tell which tokens lie in the field of view; a segmenter does not ask.

    Returns:
        The chain, which makes of a crop: ``image`` (1, i, j, k), standardized; ``input``, the same disturbed; ``valid``
        (n,), which tokens lie in the field of view, if asked for; ``noise`` (n,); and, with labels, ``label``
        (1, i, j, k) and ``has_label``.
    """
    keys = ["image", "label"] if with_label else ["image"]
    return Compose(
        [
            ResampleCropd(
                keys,
                mode=["bilinear", "nearest"][: len(keys)],
                track_meta=False,
                allow_missing_keys=True,
            ),
            *([TokenValidityd(patch_size)] if with_valid else []),
            *([Labelledd()] if with_label else []),
            Aliasd("image", "input"),
            RandHUWarpd("input", prob=warp_prob),
            RandCTNoised("input", prob=noise_prob),
            StandardizeHUd(["image", "input"]),
        ]
    )
