"""Stop a volume that cannot be trained on, by name, before it turns into NaN or a crash deep in a run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from bertswin_ext.errors import times


class _VolumeCheck(MapTransform):  # type: ignore[misc]
    """Look at every volume of an item, and pass the item through unchanged."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the volumes of an item.

        Args:
            data: the item.

        Returns:
            The same item.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            self.check(item[key])
        return item

    def check(self, volume: Tensor) -> None:
        """Raise if something is wrong with a volume (c, i, j, k)."""
        raise NotImplementedError("A check says in `check` what is wrong.")


class CheckVolumed(_VolumeCheck):
    """Check what was loaded: channels, size and values. The data pass through unchanged.

    Place it after ``LoadImaged`` and ``EnsureChannelFirstd``.

    Args:
        keys: keys of the volumes.
        channels: number of channels that every volume must have.
        allow_missing_keys: skip keys that an item does not have.

    Shape:
        Volumes are ``(c, i, j, k)``.

    Raises:
        ValueError: naming the file, if the channels differ, an axis has size 0, voxels are NaN or infinite, or
            all voxels are equal.

    Example:
        >>> check = CheckVolumed(keys=["image"])
        >>> item = {"image": torch.arange(8.0).reshape(1, 2, 2, 2)}
        >>> check(item)["image"].shape
        torch.Size([1, 2, 2, 2])
    """

    def __init__(self, keys: KeysCollection, channels: int = 1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def check(self, volume: Tensor) -> None:
        """Raise if the volume cannot be learnt from."""
        _check_shape(volume, self.channels)
        _check_values(volume)


class CheckSized(_VolumeCheck):
    """Check that a volume is about as large as the crop, or larger. The data pass through unchanged.

    Place it after resampling and before cropping.

    Args:
        keys: keys of the volumes.
        roi_size: size of the crop in voxels, one number or one per axis.
        tolerance_vox: voxels that an axis may be short of the crop. Resampling puts the centres of the outer voxels on
            those of the old ones, so that 56 voxels of 0.4 mm become 111 of 0.2 mm: as large as a crop of 112, and
            one voxel short of it. Pad after the check.
        allow_missing_keys: skip keys that an item does not have.

    Shape:
        Volumes are ``(c, i, j, k)``.

    Raises:
        ValueError: naming the file, if an axis is smaller than the crop by more than the tolerance; or
            ``tolerance_vox`` is negative.

    Example:
        >>> check = CheckSized(keys=["image"], roi_size=2)
        >>> check({"image": torch.zeros(1, 2, 2, 2)})["image"].shape
        torch.Size([1, 2, 2, 2])
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int] | int,
        tolerance_vox: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if tolerance_vox < 0:
            raise ValueError(f"`tolerance_vox` must not be negative, got {tolerance_vox}. Use 0 or 1.")
        self.tolerance_vox = tolerance_vox
        self.roi_size = tuple(int(size) for size in ensure_tuple_rep(roi_size, 3))

    def check(self, volume: Tensor) -> None:
        """Raise if the volume is smaller than the crop."""
        size = tuple(volume.shape[1:])
        least = [roi - self.tolerance_vox for roi in self.roi_size]
        short = [axis for axis, own, needed in zip("ijk", size, least, strict=True) if own < needed]
        if short:
            raise ValueError(
                f"{_name(volume)}: {times(size)} voxels{_extent(volume)} are fewer than the crop "
                f"`roi_size` = {times(self.roi_size)} along {', '.join(short)}. Use a smaller crop "
                "(`img_size` in the bundles) or a finer `spacing_mm`, pad the volume, or remove it from the "
                "datalist."
            )


def _check_shape(volume: Tensor, channels: int) -> None:
    """Raise if a volume has other channels or an empty axis."""
    if volume.ndim != 4:
        raise ValueError(
            f"{_name(volume)}: a volume must be (c, i, j, k), got {times(volume.shape)}. "
            "Add `EnsureChannelFirstd` before this check."
        )
    if volume.shape[0] != channels:
        raise ValueError(
            f"{_name(volume)}: has {volume.shape[0]} channels, must have {channels}. Write every channel to a file "
            "of its own, or remove the volume from the datalist."
        )
    if volume.numel() == 0:
        raise ValueError(
            f"{_name(volume)}: has no voxels ({times(volume.shape[1:])}). Convert the scan again, or remove it "
            "from the datalist."
        )


def _check_values(volume: Tensor) -> None:
    """Raise if a volume holds NaN or infinite voxels or is constant."""
    values = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    low, high = (float(value) for value in torch.aminmax(values))
    # NaN in any voxel makes both NaN
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        indices = (~torch.isfinite(values)).nonzero()
        raise ValueError(
            f"{_name(volume)}: {len(indices)} voxels are NaN or infinite, the first at (c, i, j, k) = "
            f"{tuple(indices[0].tolist())}. Replace them (for example by air, -1000 HU) and save the volume again, "
            "or remove it from the datalist."
        )
    if low == high:
        raise ValueError(
            f"{_name(volume)}: every voxel is {low:g}, there is nothing to learn from. Export the scan again, or "
            "remove it from the datalist."
        )


def _name(volume: Tensor) -> str:
    """Return the file a volume came from."""
    meta = volume.meta if isinstance(volume, MetaTensor) else {}
    return str(meta.get("filename_or_obj", "the volume"))


def _extent(volume: Tensor) -> str:
    """Write the size of a volume in mm, if it is known."""
    if not isinstance(volume, MetaTensor):
        return ""
    spacing = affine_to_spacing(volume.affine, r=3, suppress_zeros=False)
    sides = [size * float(step) for size, step in zip(volume.shape[1:], spacing, strict=True)]
    return f" ({times(sides, '.1f')} mm)"
