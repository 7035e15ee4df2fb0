"""The part of a scan around a joint, before it is resampled, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.transforms import Crop, InvertibleTransform, MapTransform
from monai.utils import ensure_tuple_rep

from bertswin_ext.geometry import Floats, spacing_of
from bertswin_ext.transforms.joint_place import joint_vox
from bertswin_ext.transforms.volume_grid import VolumeGrid, grid_of

__all__ = ["BlankRegiond", "JointRegiond"]


class JointRegiond(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Cut out the box around the joint; `Invertd` puts 0 around what comes back.

    Place it after ``Orientationd`` and before ``Spacingd``: a head of 200 mm at 0.2 mm would be 1000^3 voxels, of which
    a box of 60 mm is 300^3. The box lies along the volume's axes, and ends where the volume does.

    Args:
        keys: keys of the volumes.
        size_mm: edges of the box, one number or three; None leaves every volume whole.
        center_key: key of the joint in the RAS world in mm; an item without it stays whole.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        ValueError: an edge is not above 0; when called, the joint is not in the volume.

    Example:
        >>> import torch
        >>> item = {"image": torch.zeros(1, 9, 9, 9), "center_mm": [4.0, 4.0, 8.0]}
        >>> JointRegiond("image", size_mm=5.0)(item)["image"].shape
        torch.Size([1, 5, 5, 3])
    """

    def __init__(
        self,
        keys: KeysCollection,
        size_mm: float | Sequence[float] | None = None,
        center_key: str = "center_mm",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size_mm = None if size_mm is None else np.array(ensure_tuple_rep(size_mm, 3), dtype=np.float64)
        self.center_key = center_key
        self.cropper = Crop()
        if self.size_mm is not None and not ((self.size_mm > 0) & (self.size_mm < np.inf)).all():
            raise ValueError(f"`size_mm` must be above 0 mm, or None for whole volumes, got {size_mm}. Use 60, say.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with what is around its joint."""
        item = dict(data)
        for key in self.key_iterator(item):
            # recorded even if nothing is cut: `Invertd` undoes it without having seen the item
            item[key] = self.cropper(item[key], self.box(grid_of(item[key]), item.get(self.center_key)))
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with whole volumes."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.cropper.inverse(item[key])
        return item

    def box(self, grid: VolumeGrid, center_mm: npt.ArrayLike | None) -> tuple[slice, ...]:
        """What is cut out of a volume.

        Args:
            grid: of the volume.
            center_mm: the joint in the RAS world; None takes all of it.

        Raises:
            ValueError: the joint is not in the volume.
        """
        if self.size_mm is None or center_mm is None:
            return tuple(slice(0, size) for size in grid.shape)
        size_vox = np.ceil(self.size_mm / spacing_of(grid.affine) - 1e-6)  # 60 / 0.2 is no more than 300
        middle = np.clip(joint_vox(center_mm, grid), 0, np.array(grid.shape) - 1)
        # rounded in the world's direction: a volume and its flipped copy lose the same voxels
        backwards = _is_backwards(grid.affine)
        last = np.array(grid.shape) - 1
        start = np.floor(np.where(backwards, last - middle, middle) - (size_vox - 1) / 2 + 0.5)
        start = np.where(backwards, last + 1 - start - size_vox, start)
        low, high = np.clip([start, start + size_vox], 0, grid.shape).astype(int).tolist()
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _is_backwards(affine: Floats) -> npt.NDArray[np.bool_]:
    """Which axes run against the world's."""
    return np.asarray(nib.io_orientation(affine)[:, 1] < 0)


class BlankRegiond(JointRegiond):
    """Make everything but the box around the joint 0: what `JointRegiond` leaves of a label, at its place.

    Args:
        keys: keys of the volumes.
        size_mm: edges of the box, one number or three; None leaves every volume as it is.
        center_key: key of the joint in the RAS world in mm; an item without it stays as it is.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        ValueError: an edge is not above 0; when called, the joint is not in the volume.

    Example:
        >>> import torch
        >>> item = {"label": torch.ones(1, 9, 9, 9), "center_mm": [4.0, 4.0, 8.0]}
        >>> BlankRegiond("label", size_mm=5.0)(item)["label"].sum()
        tensor(75.)
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with nothing but what is around its joint."""
        item = dict(data)
        if self.size_mm is None or item.get(self.center_key) is None:
            return item
        for key in self.key_iterator(item):
            box = (slice(None), *self.box(grid_of(item[key]), item[self.center_key]))
            blank = item[key].clone().zero_()
            blank[box] = item[key][box]
            item[key] = blank
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item as it is: what was made 0 is gone."""
        return dict(data)
