"""From Hounsfield units to what the network sees."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from bertswin_ext.voxels import VOXELS

__all__ = ["StandardizeHU", "StandardizeHUd"]


class StandardizeHU(Transform):  # type: ignore[misc]
    """Clip HU to the training window and standardize them, by the constants of `VOXELS`.

    Two passes over the voxels, where `monai.transforms.ScaleIntensityRange` takes six.

    Shape:
        Any; the result is float32.

    Example:
        >>> StandardizeHU()(torch.tensor([-3000.0, -21.14, 556.88]))
        tensor([-1.7125,  0.0000,  1.0000])
    """

    def __call__(self, img: Tensor) -> Tensor:
        """The standardized volume; the given one stays as it is."""
        # (hu - mean) / std = -mean / std + 1 / std * hu
        shift = torch.full((), -VOXELS.mean_hu / VOXELS.std_hu, device=img.device)
        scaled = torch.add(shift, img.float(), alpha=1 / VOXELS.std_hu)
        return scaled.clamp_(VOXELS.normalized(VOXELS.min_hu), VOXELS.normalized(VOXELS.max_hu))


class StandardizeHUd(MapTransform):  # type: ignore[misc]
    """`StandardizeHU` of an item; keys that hold one and the same volume still do afterwards.

    Args:
        keys: keys of volumes in HU.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> StandardizeHUd("image")({"image": torch.tensor([5000.0])})["image"]
        tensor([3.4828])
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.standardize = StandardizeHU()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardize the volumes of an item."""
        item = dict(data)
        done: dict[int, Tensor] = {}
        for key in self.key_iterator(item):
            volume = item[key]
            item[key] = done[id(volume)] if id(volume) in done else self.standardize(volume)
            done[id(volume)] = item[key]
        return item
