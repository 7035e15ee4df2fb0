"""Samples with and without a label in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform

__all__ = ["Labelledd"]


class Labelledd(Transform):  # type: ignore[misc]
    """Say whether a sample has a label, and give it an empty one if it has none.

    Args:
        key: the label (1, i, j, k).
        like: the volume whose shape an empty label has.
        flag: where the answer is put, a bool tensor.

    Example:
        >>> Labelledd()({"image": torch.zeros(1, 2, 2, 2)})["has_label"]
        tensor(False)
    """

    def __init__(self, key: str = "label", like: str = "image", flag: str = "has_label") -> None:
        self.key, self.like, self.flag = key, like, flag

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with a label and the flag."""
        image = data[self.like]
        label = data[self.key] if self.key in data else torch.zeros(image.shape, dtype=torch.uint8, device=image.device)
        # labels of raw volumes are floats
        has_label = torch.full((), self.key in data, dtype=torch.bool, device=image.device)
        return {**data, self.key: label.to(torch.uint8), self.flag: has_label}
