"""The HDF5 layout of the BertsWin authors: its names, its axes, and what makes a joint one of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import VolumeError, times
from bertswin_ext.geometry import Floats
from bertswin_ext.voxels import VOXELS

__all__ = [
    "BACKGROUND",
    "CENTER",
    "FOV_RADIUS_MM",
    "IMAGE",
    "JOINTS",
    "MASK",
    "OFFSET",
    "PATIENT",
    "Hdf5Layout",
    "center_faults",
    "joint_faults",
    "load_h5py",
    "numbers_of",
    "open_hdf5",
    "unique_name",
]

FOV_RADIUS_MM = 88.0
"""Radius of the authors' field of view, 440 voxels of 0.2 mm; their files do not hold it."""

JOINTS = {"left_joint": "left", "right_joint": "right"}
IMAGE, MASK, PATIENT = "roi_image", "segmentation_mask", "patient_id"
CENTER, OFFSET, BACKGROUND = "relative_tmj_center", "roi_offset_from_center", "background_value"


def load_h5py() -> Any:
    """The optional package.

    Raises:
        ImportError: it is not installed, with the command that installs it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'HDF5 files need h5py ({error}): pip install "bertswin-ext[hdf5]"') from error
    return h5py


def open_hdf5(path: str | Path) -> Any:
    """An HDF5 file to read, with a list of studies that can be read.

    Raises:
        ImportError: h5py is not installed.
        VolumeError: it does not exist, is not HDF5 or is cut off.
    """
    try:
        file = load_h5py().File(path, "r", locking="best-effort")
        list(file)
    except (OSError, RuntimeError) as error:
        raise VolumeError(f"{path}: must be a complete HDF5 file that can be read ({error}).") from error
    return file


@dataclass(frozen=True)
class Hdf5Layout:
    """What a file does not say; and the way from its axes (z, y, x) to ours (i, j, k) and back.

    Args:
        axes: where x, y and z run to. ``LPS`` is our assumption, what a DICOM scan has when it is read slice by slice
            from the feet up. A wrong letter mirrors every joint.
        spacing_mm: edge of a voxel.
        fov_radius_mm: radius of the field of view.

    Raises:
        ValueError: an argument is out of range.

    Source: arXiv 2512.21769, section 4, and the authors' training code: voxels of 0.2 mm, a radius of 440 voxels.

    Example:
        >>> layout = Hdf5Layout("LPS")
        >>> layout.array_of_file(np.zeros((6, 7, 8))).shape
        (8, 7, 6)
        >>> (layout.index_of_file((8, 7, 6)) @ [0, 0, 0, 1]).tolist()
        [7.0, 6.0, 0.0, 1.0]
    """

    axes: str = "LPS"
    spacing_mm: float = VOXELS.spacing_mm
    fov_radius_mm: float = FOV_RADIUS_MM

    def __post_init__(self) -> None:
        if not re.fullmatch("[LR][PA][SI]", self.axes):
            raise ValueError(f"`axes` must say where x, y and z run to, such as LPS or RAS, got {self.axes!r}.")
        for name in ("spacing_mm", "fov_radius_mm"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}.")

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Which of i, j, k run against x, y, z."""
        return tuple(axis for axis in range(3) if self.axes[axis] != "RAS"[axis])

    def array_of_file(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (z, y, x) as (i, j, k), in memory of its own."""
        return np.ascontiguousarray(np.flip(array.T, self.mirrored))

    def array_to_file(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (i, j, k) as (z, y, x), in memory of its own."""
        return np.ascontiguousarray(np.flip(array, self.mirrored).T)

    def index_of_file(self, shape: Sequence[int]) -> Floats:
        """The matrix from an index (z, y, x) to that of the same voxel (i, j, k), for a shape (i, j, k)."""
        matrix = np.eye(4)[[2, 1, 0, 3]]
        for axis in self.mirrored:
            matrix[axis] = [*-matrix[axis, :3], shape[axis] - 1]
        return matrix


def joint_faults(group: Any) -> list[str]:
    """All that is wrong with a joint of a file, seen without its voxels.

    Args:
        group: what stands in the file under a joint's name.

    Returns:
        Sentences without the joint's name; none for a joint that follows the layout.
    """
    if not isinstance(group, load_h5py().Group):
        return ["must be a group named left_joint or right_joint."]
    in_others = _numbers_faults(group, OFFSET, 3) + _numbers_faults(group, BACKGROUND, 1)
    in_image, in_center = _dataset_faults(group, IMAGE, "int16"), _numbers_faults(group, CENTER, 3)
    if not in_image and not in_center:
        in_center = center_faults(numbers_of(group, CENTER), group[IMAGE].shape)
    return in_image + _mask_faults(group, in_image) + in_center + in_others


def center_faults(center: Floats, shape: Sequence[int]) -> list[str]:
    """Why (z, y, x) cannot be the joint's centre in an image of a shape (z, y, x)."""
    inside = bool(((center >= 0) & (center <= np.array(shape) - 1)).all())
    return [] if inside else [f"{CENTER} must be inside {times(shape)} voxels, got {center.tolist()} (z, y, x)."]


def numbers_of(group: Any, name: str) -> Floats:
    """An attribute as numbers; none if it is missing or of another kind."""
    try:
        return np.asarray(group.attrs[name], dtype=np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError):
        return np.empty(0)


def unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken, also where upper and lower case are one; it is added to ``taken``.

    Example:
        >>> taken = set()
        >>> [unique_name(name, taken) for name in ("a", "A", "b")]
        ['a', 'A_2', 'b']
    """
    names = (name if n == 1 else f"{name}_{n}" for n in count(1))
    free = next(name for name in names if name.lower() not in taken)
    taken.add(free.lower())
    return free


def _mask_faults(group: Any, in_image: list[str]) -> list[str]:
    """What is wrong with a mask, if there is one; its size only beside a good image."""
    if group.get(MASK, getlink=True) is None:
        return []
    faults = _dataset_faults(group, MASK, "uint8")
    if faults or in_image or group[MASK].shape == group[IMAGE].shape:
        return faults
    return [f"{MASK} must be of the size of {IMAGE}, got {group[MASK].shape} and {group[IMAGE].shape}."]


def _dataset_faults(group: Any, name: str, dtype: str) -> list[str]:
    """What is wrong with a volume."""
    dataset = group.get(name)
    if not isinstance(dataset, load_h5py().Dataset):
        return [f"{name} is missing or not a dataset."]
    shape = dataset.shape or ()
    fits = len(shape) == 3 and 0 not in shape and dataset.dtype.newbyteorder("=") == np.dtype(dtype)
    return [] if fits else [f"{name} must be (z, y, x) of {dtype}, got {shape} of {dataset.dtype}."]


def _numbers_faults(group: Any, name: str, length: int) -> list[str]:
    """What is wrong with an attribute of 3 numbers or 1."""
    numbers, wanted = numbers_of(group, name), "3 finite numbers (z, y, x)" if length == 3 else "a finite number"
    fits = len(numbers) == length and np.isfinite(numbers).all()
    return [] if fits else [f"{name} must be {wanted}, got {group.attrs.get(name, 'nothing')}."]
