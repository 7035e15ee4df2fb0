"""One entry of a sample under a second name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

__all__ = ["Aliasd"]


class Aliasd(Transform):  # type: ignore[misc]
    """Give an entry a second name, without the copy that `monai.transforms.CopyItemsd` makes.

    For chains whose later transforms replace what they change, as all here do.

    Args:
        key: the entry.
        name: its second name.

    Example:
        >>> Aliasd("image", "input")({"image": 1})
        {'image': 1, 'input': 1}
    """

    def __init__(self, key: Hashable, name: Hashable) -> None:
        self.key, self.name = key, name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with both names."""
        return {**data, self.name: data[self.key]}
