"""Left joints as right ones, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Flip, InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor
from torch import Tensor

from bertswin_ext.transforms.joint_place import is_left
from bertswin_ext.transforms.volume_grid import grid_of

__all__ = ["MirrorLeftd"]


class MirrorLeftd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Flip the volumes of a left joint along i, as a crop of `RandJointCropd` is; `Invertd` flips predictions back.

    Place it after ``Orientationd(axcodes="RAS")``, so that i is left-right. The affine follows: a flipped volume still
    lies where it was in the world.

    Args:
        keys: keys of the volumes.
        joint_key: key of ``"left"`` or ``"right"``; an item without it is not flipped.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        ValueError: when called, the joint is neither left nor right.

    Source: arXiv 2512.21769, section 4: left joints are mirrored.

    Example:
        >>> import torch
        >>> item = {"image": torch.arange(3.0).reshape(1, 3, 1, 1), "joint": "left"}
        >>> MirrorLeftd("image")(item)["image"].flatten().tolist()
        [2.0, 1.0, 0.0]
    """

    def __init__(self, keys: KeysCollection, joint_key: str = "joint", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.joint_key = joint_key
        self.flipper = Flip(spatial_axis=0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, flipped if its joint is a left one."""
        item = dict(data)
        for key in self.key_iterator(item):
            left = is_left(item.get(self.joint_key), grid_of(item[key]))
            volume = self._flipped(item[key]) if left else convert_to_tensor(item[key], track_meta=get_track_meta())
            # recorded either way: `Invertd` undoes it without having seen the item
            item[key] = self.push_transform(volume, extra_info={"mirrored": left})
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, flipped back if it was flipped."""
        item = dict(data)
        for key in self.key_iterator(item):
            if self.pop_transform(item[key])[TraceKeys.EXTRA_INFO]["mirrored"]:
                item[key] = self._flipped(item[key])
        return item

    def _flipped(self, volume: Tensor) -> MetaTensor:
        """The volume with its i axis reversed, and no record of that."""
        with self.flipper.trace_transform(False):
            return self.flipper(volume)
