"""Crops around a joint: the numbers are drawn and a box is read, nothing is interpolated yet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from bertswin_ext.errors import times
from bertswin_ext.geometry import FieldOfView, Floats, spacing_of
from bertswin_ext.stored_volume import StoredVolume
from bertswin_ext.transforms.crop_plan import CropPlan, center_range, crop_axes, feasible_center, plan_crop
from bertswin_ext.transforms.joint_place import is_left, joint_vox
from bertswin_ext.transforms.volume_grid import Volume, grid_of

__all__ = ["RandJointCrop", "RandJointCropd"]

_NUM_DRAWS = 7
_GRID_TOLERANCE_MM = 1e-3


class _Pose(NamedTuple):
    """What was drawn for a crop."""

    rotation_deg: Floats
    scale: float
    jitter_vox: Floats
    place: Floats  # in [0, 1), between the lowest and the highest possible centre


class RandJointCrop(RandomizableTransform):  # type: ignore[misc]
    """Plan a cube around a joint and read the voxels it needs.

    The joint comes to lie within (roi - core) / 2 of the crop's voxels of its middle along each axis of the crop, so
    the core around it is inside whatever the rotation and the scale. Then the cube is moved so far that it, not
    turned, lies within the volume, and its middle within the field of view. Without a joint it is put anywhere in the
    volume. A left joint is mirrored. `ResampleCrop` makes the crop of what is returned.

    Where there is no rotation and no scale the cube is put on the volume's voxels (by up to half of one), so that the
    crop is a copy.

    Args:
        roi_size: voxels of the crop, one number or one per axis.
        core_size: voxels around the joint that stay inside, one number or one per axis; None means 140/224 of
            ``roi_size``.
        rotate_range_deg: largest turn about each axis.
        scale_range: smallest and largest scale; above 1 enlarges the anatomy.
        random: False puts the joint in the middle, without rotation and scale, for validation; without a joint, the
            volume's middle.
        mirror_left: flip a left joint left-right.

    Raises:
        ValueError: a number is out of range.

    Source: arXiv 2512.21769, section 4: a cube of 224 voxels whose central 140 always hold the joint, rotations of 12
        degrees, scales of 0.9 to 1.1, left joints mirrored.

    Example:
        >>> crop = RandJointCrop(roi_size=4).set_random_state(0)
        >>> box, plan = crop(torch.zeros(1, 9, 9, 9, dtype=torch.int16), center_mm=(4.0, 4.0, 4.0), joint="right")
        >>> box.dtype, plan.size, plan.shape
        (torch.int16, (4, 4, 4), (9, 9, 9))
    """

    def __init__(
        self,
        roi_size: int | Sequence[int],
        core_size: int | Sequence[int] | None = None,
        rotate_range_deg: float = 12.0,
        scale_range: Sequence[float] = (0.9, 1.1),
        random: bool = True,
        mirror_left: bool = True,
    ) -> None:
        super().__init__(prob=1.0)
        self.roi_size = tuple(int(size) for size in ensure_tuple_rep(roi_size, 3))
        core = [round(size * 140 / 224) for size in self.roi_size] if core_size is None else core_size
        self.core_size = tuple(int(size) for size in ensure_tuple_rep(core, 3))
        self.rotate_range_deg = float(rotate_range_deg)
        self.scale_range = tuple(float(scale) for scale in scale_range)
        self.random = random
        self.mirror_left = mirror_left
        self._draws = np.full(_NUM_DRAWS, 0.5)
        _check_sizes(self.roi_size, self.core_size)
        _check_ranges(self.rotate_range_deg, self.scale_range)

    def randomize(self, data: Any = None) -> None:
        """Draw the numbers of a sample, always as many."""
        self._draws = self.R.random_sample(_NUM_DRAWS)

    def plan(
        self,
        volume: Volume,
        center_mm: npt.ArrayLike | None = None,
        joint: str | None = None,
        fov: FieldOfView | Mapping[str, Any] | None = None,
    ) -> CropPlan:
        """Where the crop lies, by the numbers drawn last; no voxel is read. See `__call__` for the arguments."""
        grid, pose = grid_of(volume), self._pose()
        mirror = is_left(joint, grid) and self.mirror_left
        seen = fov if fov is None or isinstance(fov, FieldOfView) else FieldOfView.of_item(fov)
        if center_mm is None:
            low, high = center_range(grid.shape, self.roi_size, pose.scale)
            # half a voxel more at both ends, so that on the grid every place is as likely as the others
            margin = 0.5 if self._is_plain() else 0.0
            wanted = low - margin + pose.place * (high - low + 2 * margin)
        else:
            axes = crop_axes(spacing_of(grid.affine), pose.rotation_deg, pose.scale, mirror)
            wanted = joint_vox(center_mm, grid) - axes @ pose.jitter_vox
        if self._is_plain():
            wanted = _on_grid(wanted, self.roi_size)
        center = feasible_center(wanted, grid.shape, grid.affine, self.roi_size, pose.scale, seen)
        if self._is_plain():
            center = _on_grid(center, self.roi_size)
        return plan_crop(
            grid.shape, grid.affine, self.roi_size, center, pose.rotation_deg, pose.scale, mirror, grid.file
        )

    def __call__(
        self,
        volume: Volume,
        center_mm: npt.ArrayLike | None = None,
        joint: str | None = None,
        fov: FieldOfView | Mapping[str, Any] | None = None,
        randomize: bool = True,
    ) -> tuple[Tensor, CropPlan]:
        """The voxels that the crop needs, and where it lies.

        Args:
            volume: a stored volume, or a tensor (c, i, j, k); a plain one has the identity as its affine.
            center_mm: the joint in the RAS world; None for a crop anywhere.
            joint: ``"left"`` or ``"right"``; None is not mirrored.
            fov: the scanner's field of view, or a datalist's entry of it.
            randomize: draw new numbers first.

        Returns:
            The box (c, *box) in the volume's type, and the plan.

        Raises:
            ValueError: the joint is outside the volume, is neither left nor right, or the field of view is wrong.
        """
        if randomize:
            self.randomize()
        plan = self.plan(volume, center_mm, joint, fov)
        return _cut(volume, plan), plan

    def _is_plain(self) -> bool:
        """Tell whether crops are neither turned nor scaled."""
        return not self.random or (self.rotate_range_deg == 0 and self.scale_range == (1.0, 1.0))

    def _pose(self) -> _Pose:
        """The numbers drawn, in their ranges."""
        if not self.random:
            return _Pose(np.zeros(3), 1.0, np.zeros(3), np.full(3, 0.5))
        signed, (low, high) = 2 * self._draws - 1, self.scale_range
        room = (np.array(self.roi_size) - np.array(self.core_size)) / 2
        scale = low + float(self._draws[3]) * (high - low)
        return _Pose(signed[:3] * self.rotate_range_deg, scale, signed[4:] * room, self._draws[4:])


class RandJointCropd(MapTransform, RandomizableTransform):  # type: ignore[misc]
    """Plan a cube around the joint of an item and read the voxels it needs of every volume, see `RandJointCrop`.

    Args:
        keys: keys of the volumes, all on one grid.
        roi_size: voxels of the crop, one number or one per axis.
        core_size: voxels around the joint that stay inside, one number or one per axis; None means 140/224 of
            ``roi_size``.
        rotate_range_deg: largest turn about each axis.
        scale_range: smallest and largest scale; above 1 enlarges the anatomy.
        random: False puts the joint in the middle, without rotation and scale.
        mirror_left: flip a left joint left-right.
        center_key: key of the joint in the RAS world in mm; an item without it gets a crop anywhere.
        joint_key: key of ``"left"`` or ``"right"``; an item without it is not mirrored.
        fov_key: key of the field of view; an item without it has none.
        plan_key: where the `CropPlan` is put.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        ValueError: a number is out of range; when called, what `RandJointCrop` raises, or volumes on different grids.

    Source: see `RandJointCrop`.

    Example:
        >>> item = {"image": torch.zeros(1, 9, 9, 9), "center_mm": [4.0, 4.0, 4.0], "joint": "left"}
        >>> sorted(RandJointCropd(keys="image", roi_size=4)(item))
        ['center_mm', 'crop', 'image', 'joint']
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: int | Sequence[int],
        core_size: int | Sequence[int] | None = None,
        rotate_range_deg: float = 12.0,
        scale_range: Sequence[float] = (0.9, 1.1),
        random: bool = True,
        mirror_left: bool = True,
        center_key: str = "center_mm",
        joint_key: str = "joint",
        fov_key: str = "fov",
        plan_key: str = "crop",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.cropper = RandJointCrop(roi_size, core_size, rotate_range_deg, scale_range, random, mirror_left)
        self.center_key = center_key
        self.joint_key = joint_key
        self.fov_key = fov_key
        self.plan_key = plan_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandJointCropd:
        """Seed the crops, see `monai.transforms.Randomizable`."""
        super().set_random_state(seed, state)
        self.cropper.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with boxes for volumes, and the plan of its crop."""
        item = dict(data)
        self.cropper.randomize()
        keys = list(self.key_iterator(item))
        if keys:
            _check_same_grid({key: item[key] for key in keys})
            about = (item.get(key) for key in (self.center_key, self.joint_key, self.fov_key))
            plan = item[self.plan_key] = self.cropper.plan(item[keys[0]], *about)
            item.update({key: _cut(item[key], plan) for key in keys})
        return item


def _cut(volume: Volume, plan: CropPlan) -> Tensor:
    """The voxels of the plan's box, copied: a view would take the whole volume along to another process."""
    start, stop = plan.box
    if isinstance(volume, StoredVolume):
        return torch.from_numpy(volume.read(start, stop))[None]
    where = (slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
    if not isinstance(volume, MetaTensor):
        return volume[where].clone()
    box = volume.as_tensor()[where].clone()
    meta = {**volume.meta, "affine": torch.from_numpy(plan.box_affine)}
    return MetaTensor(box, meta=meta, applied_operations=list(volume.applied_operations))


def _check_same_grid(volumes: Mapping[Hashable, Volume]) -> None:
    """Raise if volumes of an item do not lie on each other."""
    (key, first), *others = ((key, grid_of(volume)) for key, volume in volumes.items())
    for other_key, other in others:
        same = first.shape == other.shape and np.allclose(first.affine, other.affine, rtol=0, atol=_GRID_TOLERANCE_MM)
        if not same:
            raise ValueError(
                f"The volumes of an item must be on the same grid: {key!r} ({first.name}) has {first.written}, "
                f"{other_key!r} ({other.name}) has {other.written}. Resample the second onto the first."
            )


def _on_grid(center_vox: Floats, size: Sequence[int]) -> Floats:
    """The nearest centre of a crop whose voxels are the volume's."""
    half = (np.array(size) - 1) / 2
    return np.asarray(np.floor(center_vox - half + 0.5) + half)


def _check_sizes(roi_size: Sequence[int], core_size: Sequence[int]) -> None:
    """Raise if the core is not in the crop."""
    if not all(1 <= core <= roi for roi, core in zip(roi_size, core_size, strict=True)):
        raise ValueError(
            f"`core_size` must be at least 1 and at most `roi_size` along every axis, got {times(core_size)} and "
            f"{times(roi_size)}."
        )


def _check_ranges(rotate_range_deg: float, scale_range: Sequence[float]) -> None:
    """Raise if a range is none."""
    if not 0 <= rotate_range_deg <= 180:
        raise ValueError(f"`rotate_range_deg` must lie in [0, 180], got {rotate_range_deg:g}. The paper's is 12.")
    if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1] < float("inf"):
        raise ValueError(f"`scale_range` must be (low, high) with 0 < low <= high, got {tuple(scale_range)}.")
