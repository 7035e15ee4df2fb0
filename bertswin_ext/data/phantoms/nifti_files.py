"""Compressed NIfTI files whose bytes depend on the volume alone."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats

__all__ = ["whole_hu", "write_nifti", "write_scan"]


def whole_hu(image: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Hounsfield units as int16: rounded to the nearest, and held within the type's range.

    Example:
        >>> whole_hu(np.array([-1000.6, 12.4, 1e9])).tolist()
        [-1001, 12, 32767]
    """
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(image), limits.min, limits.max).astype(np.int16)


def write_nifti(path: Path, volume: npt.NDArray[Any], affine: Floats) -> None:
    """Write a volume as ``.nii.gz``.

    Both of NIfTI's transforms hold the affine, lengths are marked as mm, and the gzip header holds neither a name nor
    a time.

    Args:
        path: the file; its folder must exist.
        volume: (i, j, k), of a type that NIfTI knows.
        affine: voxel to RAS world in mm, (4, 4).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_nifti(Path(folder) / "a.nii.gz", np.zeros((2, 3, 4), np.int16), np.eye(4))
        ...     nib.load(Path(folder) / "a.nii.gz").shape
        (2, 3, 4)
    """
    nifti = nib.Nifti1Image(volume, affine)
    nifti.set_sform(affine, code="scanner")
    nifti.set_qform(affine, code="scanner")
    nifti.header.set_xyzt_units("mm")
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped:
        zipped.write(nifti.to_bytes())


def write_scan(
    directory: Path, name: str, image: npt.NDArray[Any], label: npt.NDArray[np.uint8], affine: Floats
) -> dict[str, str]:
    """Write a scan and its label, each file whole.

    Args:
        directory: receives ``images/<name>.nii.gz`` and ``labels/<name>.nii.gz``.
        name: of both files, without suffix.
        image: Hounsfield units (i, j, k), stored as int16.
        label: (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).

    Returns:
        The two paths relative to ``directory``, as a datalist gives them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_scan(Path(folder), "a", np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.uint8), np.eye(4))
        {'image': 'images/a.nii.gz', 'label': 'labels/a.nii.gz'}
    """
    files = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
    volumes: dict[str, npt.NDArray[Any]] = {"image": whole_hu(image), "label": label}
    for key, path in files.items():
        with written_whole(directory / path) as temporary:
            write_nifti(temporary, volumes[key], affine)
    return files
