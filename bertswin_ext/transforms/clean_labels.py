"""Labels without the specks that a network leaves far from the bone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from bertswin_ext.connected_parts import largest_part

__all__ = ["KeepLargestParts", "KeepLargestPartsd"]


class KeepLargestParts(Transform):  # type: ignore[misc]
    """Keep the largest connected part of a class, and make the rest of it background.

    The mandible is one bone. The skull is left alone by default: in a box around the joint it may well be in parts.
    Voxels are connected over faces, edges and corners. In place of `monai.transforms.KeepLargestConnectedComponent`,
    which needs scikit-image.

    Args:
        applied_labels: ids of the classes, above 0.

    Shape:
        The label is (1, i, j, k) of ids, and so is the result, of the same type.

    Raises:
        ValueError: an id is not above 0; when called, the label has several channels.

    Example:
        >>> KeepLargestParts([1])(torch.tensor([1, 1, 0, 1, 2, 0, 2]).reshape(1, 1, 1, 7)).flatten()
        tensor([1, 1, 0, 0, 2, 0, 2])
    """

    def __init__(self, applied_labels: Sequence[int] = (1,)) -> None:
        if not all(label > 0 for label in applied_labels):
            raise ValueError(f"`applied_labels` must be ids above 0, got {list(applied_labels)}.")
        self.applied_labels = tuple(applied_labels)

    def __call__(self, img: Tensor) -> Tensor:
        """The label; the given one stays as it is."""
        if img.ndim != 4 or img.shape[0] != 1:
            raise ValueError(f"A label must be (1, i, j, k), got {tuple(img.shape)}. Take the argmax before.")
        ids = (img.as_tensor() if isinstance(img, MetaTensor) else img)[0].numpy(force=True)
        strays = np.zeros(ids.shape, dtype=bool)
        for label in self.applied_labels:
            mask = ids == label
            strays |= mask & ~largest_part(mask)
        return img.masked_fill(torch.from_numpy(strays).to(img.device), 0)


class KeepLargestPartsd(MapTransform):  # type: ignore[misc]
    """`KeepLargestParts` of an item.

    Args:
        keys: keys of the labels.
        applied_labels: ids of the classes, above 0.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> KeepLargestPartsd("pred")({"pred": torch.tensor([1, 0, 1, 1]).reshape(1, 1, 1, 4)})["pred"].flatten()
        tensor([0, 0, 1, 1])
    """

    def __init__(
        self, keys: KeysCollection, applied_labels: Sequence[int] = (1,), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.clean = KeepLargestParts(applied_labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean the labels of an item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.clean(item[key])
        return item
