"""Volumes of a prepared data set: NIfTI files of which any box is read without the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import VolumeError, times
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats

__all__ = ["StoredVolume", "open_stored_volume", "write_stored_volume"]

Array = npt.NDArray[Any]

_TYPES = ("int16", "uint8")
_REMEDY = "Run `python -m bertswin_ext prepare` again on its source."


@dataclass(frozen=True)
class StoredVolume:
    """A volume on disk that is read box by box; it holds no file open and no voxel in memory.

    Attributes:
        path: the file.
        shape: voxels (i, j, k), axes closest to RAS.
        affine: voxel to RAS world in mm, (4, 4).
        dtype: ``int16`` for images in HU, ``uint8`` for labels.
        offset: bytes before the first voxel.
    """

    path: str
    shape: tuple[int, int, int]
    affine: Floats
    dtype: str
    offset: int

    def read(self, start: Sequence[int] = (0, 0, 0), stop: Sequence[int] | None = None) -> Array:
        """Read the voxels from ``start`` up to, but not including, ``stop``; all of them by default.

        Returns:
            A contiguous array of its own.

        Raises:
            ValueError: the box is empty or not inside the volume.
            VolumeError: the file has gone or become shorter.
        """
        ends = self.shape if stop is None else stop
        if not all(0 <= a < b <= n for a, b, n in zip(start, ends, self.shape, strict=True)):
            raise ValueError(
                f"The box from {tuple(start)} to {tuple(ends)} must lie inside {self.path}, {times(self.shape)} voxels."
            )
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, ends, strict=True))
        try:
            voxels = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)
        except (OSError, ValueError) as error:
            raise VolumeError(f"{self.path}: the stored volume has changed since the run began ({error}).") from error
        return np.array(voxels[box])


def write_stored_volume(path: str | Path, array: Array, affine: Floats) -> None:
    """Write a volume whole, for `open_stored_volume`.

    The file is NIfTI like any other, uncompressed. NIfTI's first axis is the one that runs fastest, so the axes are
    written in reverse (superior, anterior, right): the bytes are then a C array in RAS order, and a box of it is read
    in long runs.

    Args:
        path: a name that ends with ``.nii``.
        array: (i, j, k), int16 or uint8, axes closest to RAS.
        affine: voxel to RAS world in mm.

    Raises:
        ValueError: the type, the axes or the name are others.
    """
    if not str(path).endswith(".nii"):
        raise ValueError(f"A stored volume's name must end with .nii, got {path}.")
    if array.ndim != 3 or array.dtype.name not in _TYPES:
        raise ValueError(f"A stored volume must be (i, j, k) of int16 or uint8, got {array.shape} of {array.dtype}.")
    if nib.aff2axcodes(affine) != ("R", "A", "S"):
        raise ValueError(f"A stored volume's axes must be closest to RAS, got {''.join(nib.aff2axcodes(affine))}.")
    image = nib.Nifti1Image(array.T, np.asarray(affine)[:, [2, 1, 0, 3]], dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    with written_whole(path) as temporary, temporary.open("wb") as file:
        image.to_stream(file)


def open_stored_volume(path: str | Path) -> StoredVolume:
    """Look at a stored volume's header and size.

    Raises:
        VolumeError: there is no such file, it is cut off, or it was not written by `write_stored_volume`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_stored_volume(folder + "/a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
        ...     open_stored_volume(folder + "/a.nii").read((1, 2, 0), (2, 3, 4)).tolist()
        [[[20, 21, 22, 23]]]
    """
    try:
        image: Any = nib.Nifti1Image.from_filename(path)
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: the stored volume does not exist. {_REMEDY}") from error
    except Exception as error:  # nibabel raises what its parts raise
        raise VolumeError(f"{path}: the header of the stored volume is damaged ({error}). {_REMEDY}") from error
    raw, affine = image.dataobj, image.affine[:, [2, 1, 0, 3]]
    is_ours = str(path).endswith(".nii") and len(image.shape) == 3 and (raw.slope, raw.inter) == (1, 0)
    is_plain = raw.dtype.name in _TYPES and raw.dtype.isnative  # the name says nothing about the order of bytes
    if not (is_ours and is_plain) or nib.aff2axcodes(affine) != ("R", "A", "S"):
        raise VolumeError(f"{path}: is not a stored volume. {_REMEDY}")
    i, j, k = (int(n) for n in image.shape[::-1])
    needed, found = raw.offset + i * j * k * raw.dtype.itemsize, Path(path).stat().st_size
    if found < needed:
        raise VolumeError(f"{path}: is cut off: {found} of {needed} bytes. {_REMEDY}")
    return StoredVolume(str(path), (i, j, k), np.asarray(affine, dtype=np.float64), raw.dtype.name, int(raw.offset))
