"""Stored volumes as the beginning of a chain: opened, not loaded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from bertswin_ext.errors import times
from bertswin_ext.geometry import spacing_of
from bertswin_ext.stored_volume import open_stored_volume

__all__ = ["OpenStoredd"]

_TOLERANCE = 0.01


class OpenStoredd(MapTransform):  # type: ignore[misc]
    """Put a `StoredVolume` in the place of its path; `RandJointCropd` then reads the box it needs.

    Args:
        keys: keys of the volumes.
        spacing_mm: edge of a voxel that the run expects, one number or three.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        VolumeError: the file is not there, cut off or no stored volume.
        ValueError: it was prepared with another spacing.
    """

    def __init__(
        self, keys: KeysCollection, spacing_mm: float | Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = tuple(float(edge) for edge in ensure_tuple_rep(spacing_mm, 3))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Open the volumes of an item."""
        item = dict(data)
        for key in self.key_iterator(item):
            volume = open_stored_volume(item[key])
            spacing = spacing_of(volume.affine)
            if not np.allclose(spacing, self.spacing_mm, rtol=_TOLERANCE):
                raise ValueError(
                    f"{volume.path}: was prepared with voxels of {times(spacing, '.4g')} mm, the run expects "
                    f"`spacing_mm` = {times(self.spacing_mm)}. Set it to that of the store, or prepare the scans again."
                )
            item[key] = volume
        return item
