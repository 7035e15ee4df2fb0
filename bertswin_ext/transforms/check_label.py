"""Stop a label that its image cannot be learnt from, or measured against, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from bertswin_ext.errors import VolumeError, times
from bertswin_ext.geometry import moved, spacing_of
from bertswin_ext.transforms.volume_grid import Volume, VolumeGrid, grid_of, planes_of

__all__ = ["LABEL_NAMES", "CheckLabeld"]

LABEL_NAMES = ("background", "mandible", "skull")

# a rotation written as NIfTI's quaternion moves a volume's far end by almost a voxel; a whole one is an error
_TOLERANCE_VOX = 0.9
_MOST_LISTED = 8


class CheckLabeld(MapTransform):  # type: ignore[misc]
    """Check a label against its image: one channel, the same grid, whole numbers, known ids.

    Place it after ``LoadImaged`` and ``EnsureChannelFirstd``, or after `OpenStoredd`, before either volume changes. The
    voxels pass through unchanged. A label whose affine differs from the image's within the tolerance gets the image's,
    so that resampling cannot give the two different sizes.

    Args:
        keys: keys of the labels.
        image_key: key of the image that they belong to.
        labels: names of the ids 0, 1, ..., or how many ids there are.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        VolumeError: naming the file, what was found and what to do.

    Example:
        >>> item = {"image": torch.zeros(1, 2, 2, 2), "label": torch.ones(1, 2, 2, 2)}
        >>> CheckLabeld()(item)["label"] is item["label"]
        True
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        image_key: str = "image",
        labels: int | Sequence[str] = LABEL_NAMES,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.known = _known(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the labels of an item, and put them on exactly the grid of its image."""
        item = dict(data)
        for key in self.key_iterator(item):
            label, image = item[key], item[self.image_key]
            _check_channels(label)
            _check_grids(grid_of(label), grid_of(image))
            _check_whole(label)
            _check_ids(label, self.known)
            item[key] = _with_affine_of(label, image)
        return item


def _known(labels: int | Sequence[str]) -> list[str]:
    """The ids in words."""
    if isinstance(labels, int):
        labels = LABEL_NAMES if labels == len(LABEL_NAMES) else [""] * labels
    return [f"{index} {name}".strip() for index, name in enumerate(labels)]


def _check_channels(label: Volume) -> None:
    """Raise if a label is not one volume of ids."""
    if isinstance(label, Tensor) and label.ndim == 4 and label.shape[0] != 1:
        raise VolumeError(
            f"{grid_of(label).name}: the label has {label.shape[0]} channels, must have 1. Write the id of its class "
            "into every voxel, rather than one mask for each class."
        )


def _check_grids(label: VolumeGrid, image: VolumeGrid) -> None:
    """Raise if label and image do not lie on each other."""
    apart = f"have {times(label.shape)} and {times(image.shape)} voxels"
    if label.shape == image.shape:
        corners = np.array(list(product(*[(0, size - 1) for size in label.shape])))
        apart_mm = np.linalg.norm(moved(label.affine, corners) - moved(image.affine, corners), axis=1).max()
        if apart_mm <= _TOLERANCE_VOX * spacing_of(image.affine).min():
            return
        apart = f"lie up to {apart_mm:.3g} mm apart"
    raise VolumeError(
        f"{label.name}: the label is not on the grid of its image {image.name}: they {apart}. The label has "
        f"{label.written}, the image {image.written}. Resample the label onto the image with nearest neighbours, or "
        "correct the pair in the datalist."
    )


def _check_whole(label: Volume) -> None:
    """Raise if values are no ids."""
    count, first = 0, ""
    for i, plane in enumerate(planes_of(label)):
        wrong = ~_is_whole(plane)
        count += int(np.count_nonzero(wrong))
        if count and not first:
            j, k = np.argwhere(wrong)[0].tolist()
            first = f"{plane[j, k]:g} at (i, j, k) = ({i}, {j}, {k})"
    if count:
        raise VolumeError(
            f"{grid_of(label).name}: {_voxels(count)} of the label are not whole numbers, the first is {first}. Save "
            "the ids of the classes, and resample labels with nearest neighbours."
        )


def _check_ids(label: Volume, known: Sequence[str]) -> None:
    """Raise if there are ids without a class."""
    unknown: Counter[int] = Counter()
    for plane in planes_of(label):
        ids, counts = np.unique(plane[(plane < 0) | (plane >= len(known))], return_counts=True)
        unknown.update({int(value): int(count) for value, count in zip(ids, counts, strict=True)})
    if unknown:
        shown = [f"{value} ({_voxels(count)})" for value, count in sorted(unknown.items())]
        more = [f"{len(shown) - _MOST_LISTED} more"] if len(shown) > _MOST_LISTED else []
        raise VolumeError(
            f"{grid_of(label).name}: holds the unknown {'id' if len(shown) == 1 else 'ids'} "
            f"{', '.join(shown[:_MOST_LISTED] + more)}; known are {', '.join(known)}. Give these voxels a known id, or "
            "remove the label from the datalist."
        )


def _is_whole(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which values are whole numbers; NaN and infinity are none."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, dtype=bool)
    return np.isfinite(values) & (values == np.rint(values))


def _voxels(count: int) -> str:
    """Write a number of voxels."""
    return f"{count} voxel" if count == 1 else f"{count} voxels"


def _with_affine_of(label: Volume, image: Volume) -> Volume:
    """The label with its image's affine, where it has one of its own."""
    affine = torch.from_numpy(grid_of(image).affine)
    if not isinstance(label, MetaTensor) or torch.equal(label.affine, affine):
        return label
    return MetaTensor(
        label.as_tensor(), meta={**label.meta, "affine": affine}, applied_operations=list(label.applied_operations)
    )
