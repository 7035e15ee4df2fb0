"""Make planned crops: crop, rotation, scale and mirroring as one interpolation, and back onto the volume's grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep
from torch import Tensor

from bertswin_ext.errors import times
from bertswin_ext.transforms.crop_plan import CropPlan
from bertswin_ext.transforms.resample import MODES, resample
from bertswin_ext.voxels import AIR_HU

__all__ = ["ResampleCrop", "ResampleCropd"]


class ResampleCrop(InvertibleTransform):  # type: ignore[misc]
    """Make the crop of a plan from the box that was read for it, in one interpolation on the box's device.

    Args:
        mode: ``"bilinear"`` for images, ``"nearest"`` for labels.
        fill: value outside the volume; None means -1000 HU for ``"bilinear"`` and 0 for ``"nearest"``.
        track_meta: return a `MetaTensor` that knows where it lies in the world and can be inverted, rather than a
            plain tensor.

    Shape:
        The box is (c, *box), the crop (c, *size).

    Raises:
        ValueError: the mode is unknown.

    Source: arXiv 2512.21769, section 4: trilinear images, nearest labels. Its code interpolates in bfloat16
        coordinates; here they are right to a thousandth of a voxel.

    Example:
        >>> from bertswin_ext.transforms.crop_plan import plan_crop
        >>> plan = plan_crop((4, 4, 4), np.eye(4), (2, 2, 2), (1.0, 1.5, 1.5))
        >>> plan.box
        ((0, 1, 1), (3, 3, 3))
        >>> ResampleCrop()(torch.tensor([0.0, 2.0, 4.0])[None, :, None, None].expand(1, 3, 2, 2), plan)[0, :, 0, 0]
        metatensor([1., 3.])
    """

    def __init__(self, mode: str = "bilinear", fill: float | None = None, track_meta: bool = True) -> None:
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}.")
        self.mode = mode
        self.fill = float(fill) if fill is not None else _usual_fill(mode)
        self.track_meta = track_meta

    def __call__(self, box: Tensor, plan: CropPlan) -> Tensor:
        """The crop.

        Args:
            box: the voxels of ``plan.box``, see `RandJointCrop`.
            plan: where the crop lies.

        Returns:
            float32, or for ``"nearest"`` the box's type.

        Raises:
            ValueError: these are not the voxels of the plan's box.
        """
        _check_box(box, plan)
        crop = resample(_plain(box), plan.box_matrix, plan.size, self.mode, self.fill)
        if not self.track_meta:
            return crop
        return self.push_transform(
            _with_meta(crop, box, plan), orig_size=plan.shape, extra_info={**_to_numbers(plan), "mode": self.mode}
        )

    def inverse(self, data: Tensor) -> Tensor:
        """The crop, or a prediction for it, on the grid of the volume that it was cut from; ``fill`` around it.

        Where `monai.transforms.Invertd` asks for nearest neighbours of what was an image, 0 is put around it.

        Args:
            data: (c, *size) with the record of the crop.

        Returns:
            (c, *shape) of the volume, with its affine.

        Raises:
            ValueError: there is no such record, or the size is another.
        """
        if not isinstance(data, MetaTensor):
            raise ValueError("Only a MetaTensor knows which crop it is. Crop with `track_meta=True`.")
        crop = MetaTensor(data.as_tensor(), meta=dict(data.meta), applied_operations=list(data.applied_operations))
        record = self.pop_transform(crop)[TraceKeys.EXTRA_INFO]
        plan, mode = _from_numbers(record), str(record["mode"])
        _check_size(crop, plan)
        fill = self.fill if mode == self.mode else _usual_fill(mode)
        volume = MetaTensor(_placed(crop.as_tensor(), plan, mode, fill)).copy_meta_from(crop)
        volume.affine = torch.from_numpy(plan.affine.copy())
        return volume


class ResampleCropd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Make the planned crop of every volume of an item, see `ResampleCrop`; place it after `RandJointCropd`.

    On the CPU it can be part of a dataset's transforms. On a GPU it comes after the loader and `ToDeviced`, item by
    item, as boxes differ in size; the loader then handles int16 boxes only.

    Args:
        keys: keys of the boxes.
        mode: ``"bilinear"`` for images, ``"nearest"`` for labels; one, or one per key.
        fill: value outside the volume, one or one per key; None means -1000 HU for ``"bilinear"``, 0 for
            ``"nearest"``.
        plan_key: key of the `CropPlan`.
        track_meta: return `MetaTensor`, which can be inverted, rather than plain tensors.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> from bertswin_ext.transforms.crop_plan import plan_crop
        >>> item = {"image": torch.zeros(1, 3, 3, 3), "crop": plan_crop((9, 9, 9), np.eye(4), (3, 3, 3), (4, 4, 4))}
        >>> crop = ResampleCropd(keys="image")(item)["image"]
        >>> crop.shape, crop.affine[:3, 3].tolist()
        (torch.Size([1, 3, 3, 3]), [3.0, 3.0, 3.0])
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: str | Sequence[str] = "bilinear",
        fill: float | Sequence[float | None] | None = None,
        plan_key: str = "crop",
        track_meta: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        modes, fills = ensure_tuple_rep(mode, len(self.keys)), ensure_tuple_rep(fill, len(self.keys))
        self.resamplers = [ResampleCrop(m, f, track_meta) for m, f in zip(modes, fills, strict=True)]
        self.plan_key = plan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its crops."""
        item = dict(data)
        for key, resampler in self.key_iterator(item, self.resamplers):
            item[key] = resampler(item[key], item[self.plan_key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its crops back on the grid of their volumes."""
        item = dict(data)
        for key, resampler in self.key_iterator(item, self.resamplers):
            item[key] = resampler.inverse(item[key])
        return item


def _usual_fill(mode: str) -> float:
    """Air around an image, background around a label."""
    return AIR_HU if mode == "bilinear" else 0.0


def _check_box(box: Tensor, plan: CropPlan) -> None:
    """Raise if these cannot be the voxels of the plan's box."""
    start, stop = plan.box
    expected = tuple(b - a for a, b in zip(start, stop, strict=True))
    if tuple(box.shape[1:]) != expected:
        raise ValueError(
            f"{plan.name}: a box of (c, {times(expected)}) voxels belongs to the plan, from {start} to {stop}, got "
            f"{times(box.shape)}. Crop what `RandJointCrop` has cut, before anything changes its size."
        )


def _check_size(crop: Tensor, plan: CropPlan) -> None:
    """Raise if this is not as large as the crop was."""
    if tuple(crop.shape[1:]) != plan.size:
        raise ValueError(
            f"{plan.name}: the crop was {times(plan.size)} voxels, what shall be put back is {times(crop.shape[1:])}. "
            "Undo later changes of its size first."
        )


def _plain(tensor: Tensor) -> Tensor:
    """The tensor without its meta data."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _with_meta(crop: Tensor, box: Tensor, plan: CropPlan) -> MetaTensor:
    """The crop with the box's meta data, in its own place."""
    meta = {} if plan.file is None else {"filename_or_obj": plan.file}
    applied = []
    if isinstance(box, MetaTensor):
        meta, applied = box.meta, list(box.applied_operations)
    return MetaTensor(crop, meta={**meta, "affine": torch.from_numpy(plan.crop_affine)}, applied_operations=applied)


def _placed(crop: Tensor, plan: CropPlan, mode: str, fill: float) -> Tensor:
    """The crop on the volume's grid; only its box is interpolated."""
    start, stop = plan.box
    box_size = tuple(b - a for a, b in zip(start, stop, strict=True))
    box = resample(crop, np.asarray(np.linalg.inv(plan.box_matrix)), box_size, mode, fill)
    volume = box.new_full((box.shape[0], *plan.shape), fill)
    volume[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))] = box
    return volume


def _to_numbers(plan: CropPlan) -> dict[str, Any]:
    """The plan as MONAI wants to record it, in numbers and strings."""
    return {
        "matrix": plan.matrix.tolist(),
        "size": list(plan.size),
        "shape": list(plan.shape),
        "affine": plan.affine.tolist(),
        "file": plan.file or "",
    }


def _from_numbers(record: Mapping[str, Any]) -> CropPlan:
    """The plan that was recorded."""
    (i, j, k), (a, b, c) = record["size"], record["shape"]
    return CropPlan(
        np.array(record["matrix"]), (i, j, k), (a, b, c), np.array(record["affine"]), record["file"] or None
    )
