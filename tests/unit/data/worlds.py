"""A volume whose every value says where it is: HU as a linear function of the position in space."""

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd

from bertswin_ext.data.reading.volume_reader import VolumeReader

AIR = -1000.0


def hounsfield(ras):
    """HU at world positions ``(..., 3)``, RAS in mm; below -500 somewhere in every test volume."""
    return ras @ np.array([21.0, -17.0, 9.0]) - 1700.0


def load(path, key="image"):
    """The first transforms of every bundle."""
    chain = Compose(
        [
            LoadImaged(keys=[key], reader=VolumeReader()),
            EnsureChannelFirstd(keys=[key]),
            Orientationd(keys=[key], axcodes="RAS", labels=None),
        ]
    )
    return chain({key: str(path)})[key]


def positions(volume):
    """World position of every voxel, ``(i, j, k, 3)``, RAS in mm."""
    indices = np.stack(np.meshgrid(*[np.arange(size) for size in volume.shape[1:]], indexing="ij"), axis=-1)
    affine = volume.affine.numpy()
    return indices @ affine[:3, :3].T + affine[:3, 3]


def error(volume, inside=None):
    """Largest difference in HU from the function, over the voxels inside (all of them by default)."""
    difference = np.abs(volume[0].numpy() - hounsfield(positions(volume)))
    return difference.max() if inside is None else difference[inside].max()
