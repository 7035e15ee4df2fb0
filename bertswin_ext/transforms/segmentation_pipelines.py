"""Chains of transforms of a segmenter: to the network's voxels, to crops for training, and back to the input's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Activationsd,
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Transform,
)

from bertswin_ext.transforms.check_label import LABEL_NAMES, CheckLabeld
from bertswin_ext.transforms.checks import CheckVolumed
from bertswin_ext.transforms.class_center import LabelVoxelsd, RandClassCenterd
from bertswin_ext.transforms.clean_labels import KeepLargestPartsd
from bertswin_ext.transforms.joint_crop import RandJointCropd
from bertswin_ext.transforms.joint_region import BlankRegiond, JointRegiond
from bertswin_ext.transforms.mirror_left import MirrorLeftd
from bertswin_ext.transforms.most_likely import MostLikelyClassd
from bertswin_ext.transforms.pipelines import volume_preprocessing
from bertswin_ext.transforms.resampled import Resampled
from bertswin_ext.transforms.seed import RandSeedd
from bertswin_ext.transforms.standardize import StandardizeHUd
from bertswin_ext.transforms.stored import OpenStoredd
from bertswin_ext.voxels import VOXELS

__all__ = ["segmentation_postprocessing", "segmentation_preprocessing", "segmentation_training"]


def segmentation_preprocessing(
    spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
    reader: Any = None,
    with_label: bool = False,
    region_mm: float | Sequence[float] | None = None,
    mirror_left: bool = True,
    label_on_own_grid: bool = False,
    class_names: Sequence[str] = LABEL_NAMES,
) -> Compose:
    """From a file to a whole volume as the network sees it, of any size; `segmentation_postprocessing` undoes it.

    An item needs ``image`` only. A volume smaller than the inferer's window is padded by the inferer.

    Args:
        spacing_mm: edge of a voxel, one number or three.
        reader: reader of the files, MONAI's choice when None.
        with_label: load and check ``label`` too, where an item has one.
        region_mm: edges of the box around the joint that is segmented; None, or no ``center_mm``: the whole volume.
        mirror_left: flip left joints to look like right ones; without ``joint`` nothing is flipped.
        label_on_own_grid: leave the label where it was loaded, for measuring in the input's geometry; outside the
            region it is made background, as the prediction will be.
        class_names: names of the label's values from 0 on; others are refused.

    Returns:
        The chain, which makes of an item: ``image`` (1, i, j, k) float32, standardized; and, with labels, ``label``
        (1, i, j, k) uint8.

    Example:
        >>> [type(transform).__name__ for transform in segmentation_preprocessing().transforms][:3]
        ['LoadImaged', 'EnsureChannelFirstd', 'CheckVolumed']
    """
    keys = ["image", "label"] if with_label else ["image"]
    moved = ["image"] if label_on_own_grid else keys
    optional: dict[str, Any] = {"keys": moved, "allow_missing_keys": True}
    return Compose(
        [
            LoadImaged(keys=keys, reader=reader, allow_missing_keys=True),
            EnsureChannelFirstd(keys=keys, allow_missing_keys=True),
            CheckVolumed(keys="image"),
            *([CheckLabeld(labels=class_names, allow_missing_keys=True)] if with_label else []),
            *([BlankRegiond("label", region_mm, allow_missing_keys=True)] if with_label and label_on_own_grid else []),
            Orientationd(**optional, axcodes="RAS", labels=None),
            JointRegiond(**optional, size_mm=region_mm),
            _resampling(moved, spacing_mm),
            *([MirrorLeftd(**optional)] if mirror_left else []),
            StandardizeHUd(keys="image"),
            *([CastToTyped("label", torch.uint8, allow_missing_keys=True)] if with_label else []),
        ]
    )


def segmentation_training(
    roi_size: int | Sequence[int],
    spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
    reader: Any = None,
    prepared: bool = False,
    class_ratios: Sequence[float] = (1, 1, 1),
    core_size: int | Sequence[int] | None = None,
    rotate_range_deg: float = 12.0,
    scale_range: Sequence[float] = (0.9, 1.1),
    region_mm: float | Sequence[float] | None = None,
    class_names: Sequence[str] = LABEL_NAMES,
) -> Compose:
    """What a loader's worker does: from an item to the voxels of a crop; `device_transforms` (with_label) finishes it.

    Args:
        roi_size: voxels per axis of the crop.
        spacing_mm: edge of a voxel, one number or three.
        reader: reader of the files, MONAI's choice when None.
        prepared: the volumes were written by ``python -m bertswin_ext prepare``, and only the box is read.
        class_ratios: how often crops are centred on background, mandible and skull, relative to each other; an item
            without a label is cropped around its joint, or anywhere.
        core_size: voxels that the centre stays within; 140 of 224 when None.
        rotate_range_deg: largest rotation about each axis.
        scale_range: smallest and largest scale.
        region_mm: edges of the box around the joint that crops come from; None, or no ``center_mm``: the whole volume.
            Prepared volumes are such boxes.
        class_names: names of the label's values from 0 on; others are refused.

    Returns:
        The chain; what comes before the choice of a class is deterministic and should be cached: of prepared volumes
        that is a few kB each, and without a cache every crop costs a pass over its label.

    Example:
        >>> [type(transform).__name__ for transform in segmentation_training(96, prepared=True).transforms][:3]
        ['OpenStoredd', 'CheckLabeld', 'LabelVoxelsd']
    """
    keys = ["image", "label"]
    if prepared:
        volumes: list[Transform] = [
            OpenStoredd(keys, spacing_mm, allow_missing_keys=True),
            CheckLabeld(labels=class_names, allow_missing_keys=True),
        ]
    else:
        volumes = volume_preprocessing(roi_size, spacing_mm, reader, True, class_names, region_mm)
    crop = RandJointCropd(
        keys,
        roi_size,
        core_size=core_size,
        rotate_range_deg=rotate_range_deg,
        scale_range=scale_range,
        allow_missing_keys=True,
    )
    voxels = LabelVoxelsd("label", num_classes=len(class_names), allow_missing_keys=True)
    return Compose([*volumes, voxels, RandClassCenterd(class_ratios), crop, RandSeedd()])


def segmentation_postprocessing(
    preprocessing: Compose,
    keep_largest: bool = False,
    with_image: bool = False,
    key: str = "pred",
    image_key: str = "image",
) -> Compose:
    """From logits on the network's grid to a label in the input's exact geometry.

    Probabilities, not ids, are brought back, so that edges are interpolated; outside the region that was segmented
    there is background. This is done where the logits are: stitch large volumes on the CPU, with the inferer's
    ``device``. Beside image and logits a voxel of the input takes about 40 bytes (3 probabilities, 3 coordinates,
    copies): 5 GB for a scan of 500^3. With a region it is 30, as the probabilities are padded before one is chosen.

    Args:
        preprocessing: what the image went through, see `segmentation_preprocessing`.
        keep_largest: remove all but the largest part of the mandible.
        with_image: bring the image back, too, for pictures; it stays standardized.
        key: the logits (c, i, j, k), then the label (1, i, j, k) uint8.
        image_key: the image that was preprocessed.

    Returns:
        The chain; `SaveImaged` can follow it.

    Example:
        >>> [type(t).__name__ for t in segmentation_postprocessing(segmentation_preprocessing(), True).transforms]
        ['Activationsd', 'Invertd', 'MostLikelyClassd', 'KeepLargestPartsd']
    """
    return Compose(
        [
            Activationsd(keys=key, softmax=True),
            # the image last: what happened to it tells how the rest is brought back
            *(_inverted(k, preprocessing, image_key) for k in ([key, image_key] if with_image else [key])),
            MostLikelyClassd(keys=key),
            *([KeepLargestPartsd(keys=key)] if keep_largest else []),
        ]
    )


def _inverted(key: str, preprocessing: Compose, image_key: str) -> Invertd:
    """Bring what lies on the image's grid back to where the image was loaded."""
    return Invertd(
        keys=key, transform=preprocessing, orig_keys=image_key, nearest_interp=False, to_tensor=True, device="cpu"
    )


def _resampling(keys: Sequence[str], spacing_mm: float | Sequence[float]) -> Transform:
    """Resampling of images, and of labels by nearest neighbours."""
    spacing = [spacing_mm] * 3 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    # in float32 the coordinates are right to 1e-4 voxels, and take half of what MONAI's float64 takes
    modes = ["bilinear", "nearest"][: len(keys)]
    return Resampled(keys, spacing, mode=modes, dtype=np.float32, allow_missing_keys=True)
