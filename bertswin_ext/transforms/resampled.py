"""MONAI's resampling of volumes that have company."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Spacingd

__all__ = ["Resampled"]


class Resampled(Spacingd):  # type: ignore[misc]
    """`monai.transforms.Spacingd`, which sees its own keys only.

    MONAI 1.6 takes whatever stands beside ``image`` as ``image_...`` for a dictionary of meta data; MONAI Label puts a
    path there, a datalist may have a number.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> item = {"image": MetaTensor(torch.zeros(1, 4, 4, 4)), "image_id": 7}
        >>> resampled = Resampled("image", pixdim=(2.0, 2.0, 2.0))(item)
        >>> resampled["image"].shape, resampled["image_id"]
        (torch.Size([1, 2, 2, 2]), 7)
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """The item with its volumes resampled."""
        own = {key: data[key] for key in self.keys if key in data}
        return dict(data) | super().__call__(own, lazy)
