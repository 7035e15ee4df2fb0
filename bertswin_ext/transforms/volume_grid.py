"""Where the voxels of a volume are, and its voxels plane by plane, whether it is in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from torch import Tensor

from bertswin_ext.errors import times
from bertswin_ext.geometry import Floats
from bertswin_ext.stored_volume import StoredVolume

__all__ = ["Volume", "VolumeGrid", "grid_of", "planes_of"]

Volume = StoredVolume | Tensor


class VolumeGrid(NamedTuple):
    """Where a volume's voxels are.

    Attributes:
        shape: voxels (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).
        file: where the volume came from, if that is known.
    """

    shape: tuple[int, int, int]
    affine: Floats
    file: str | None

    @property
    def name(self) -> str:
        """The volume in a message."""
        return self.file or "the volume"

    @property
    def written(self) -> str:
        """The grid in a message."""
        return f"{times(self.shape)} voxels and the affine {self.affine[:3].round(4).tolist()}"


def grid_of(volume: Volume) -> VolumeGrid:
    """Shape, affine and file of a volume; a plain tensor's affine is the identity.

    Args:
        volume: a stored volume, or a tensor (c, i, j, k).

    Raises:
        ValueError: a tensor is not (c, i, j, k).

    Example:
        >>> import torch
        >>> grid_of(torch.zeros(1, 2, 3, 4)).shape
        (2, 3, 4)
    """
    if isinstance(volume, StoredVolume):
        return VolumeGrid(volume.shape, volume.affine, volume.path)
    file = volume.meta.get("filename_or_obj") if isinstance(volume, MetaTensor) else None
    if volume.ndim != 4:
        raise ValueError(
            f"{file or 'the volume'}: a volume must be (c, i, j, k), got {times(volume.shape)}. "
            "Add `EnsureChannelFirstd` before."
        )
    affine = volume.affine.numpy(force=True) if isinstance(volume, MetaTensor) else np.eye(4)
    i, j, k = volume.shape[1:]
    return VolumeGrid((i, j, k), affine.astype(np.float64), None if file is None else str(file))


def planes_of(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    """The (j, k) planes of a volume's first channel in order; of a stored one no more than one is in memory.

    Example:
        >>> import torch
        >>> [plane.tolist() for plane in planes_of(torch.arange(4).reshape(1, 2, 1, 2))]
        [[[0, 1]], [[2, 3]]]
    """
    if isinstance(volume, StoredVolume):
        _, *ends = volume.shape
        for i in range(volume.shape[0]):
            yield volume.read((i, 0, 0), (i + 1, *ends))[0]
    else:
        yield from (volume.as_tensor() if isinstance(volume, MetaTensor) else volume)[0].numpy(force=True)
