"""A scan's voxels and those of its label map, refused where they cannot be what they should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertswin_ext.data.preparation.fov_estimate import fill_value
from bertswin_ext.data.preparation.intensity import IntensityMap, fit_intensity, why_not_hu
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.working_grid import OrientedScan, orient
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.errors import VolumeError, times
from bertswin_ext.geometry import FieldOfView, Floats, moved, spacing_of

__all__ = ["MANDIBLE", "SKULL", "check_voxels", "intensity_of", "read_label", "read_volume"]

Array = npt.NDArray[Any]

MANDIBLE, SKULL = 1, 2
"""Classes of stored label maps; 0 is all else."""

_SPACINGS_MM = (0.01, 10.0)
_APART_VOX = 0.1  # between the grids of a scan and of its label map
_NAMED = 20


def read_volume(path: Path) -> tuple[Array, Floats]:
    """Read a volume as stored.

    Returns:
        Voxels (i, j, k) in any orientation, and voxel to RAS world in mm, (4, 4).

    Raises:
        VolumeError: see `VolumeReader`; or the spacing is that of no scanner.
    """
    reader = VolumeReader()
    voxels, meta = reader.get_data(reader.read(str(path)))
    affine = np.asarray(meta["affine"], dtype=np.float64)
    spacing, (least, most) = spacing_of(affine), _SPACINGS_MM
    if spacing.min() < least or spacing.max() > most:
        raise VolumeError(
            f"{path}: voxels of {times(spacing)} mm are those of no scanner, which has {least:g} to {most:g} mm. Is "
            "the unit another one? Write the true spacing into the header, or convert the scan again."
        )
    return voxels, affine


def check_voxels(path: Path, voxels: Array, intensity: str) -> None:
    """Raise if voxels are not all numbers, all the same, or not HU where HU are asked for.

    Args:
        path: the file, for the message.
        voxels: grey values.
        intensity: one of the settings' ways to HU; ``auto`` looks whether they may be HU.

    Raises:
        VolumeError: with the reason.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite([low, high]).all():
        raise VolumeError(f"{path}: holds NaN or infinite voxels. Replace them, or export the scan again.")
    if low == high:
        raise VolumeError(f"{path}: every voxel is {low:g}. Export the scan again.")
    reason = why_not_hu(voxels) if intensity == "auto" else None
    if reason:
        raise VolumeError(
            f"{path}: {reason}. Correct the rescale tags, or choose `--intensity percentile` to scale every scan by "
            "itself, or `--intensity hu` if the values are right."
        )


def intensity_of(source: OrientedScan, fov: FieldOfView | None, intensity: str) -> IntensityMap:
    """The map from grey values to HU.

    Args:
        source: the scan.
        fov: what the scanner saw; the constant around it is no tissue.
        intensity: one of the settings' ways to HU.

    Raises:
        ValueError: the values have no contrast.
    """
    if intensity != "percentile":
        return fit_intensity(source.voxels, "hu")
    fill = fill_value(source.voxels, source.affine, fov) if fov else None
    return fit_intensity(source.voxels, "percentile", fill)


def read_label(path: Path, scan: Path, source: OrientedScan, settings: PreparationSettings) -> OrientedScan:
    """Read the label map of a scan, in the classes of the store.

    Args:
        path: the label map.
        scan: the scan's file.
        source: the scan itself, on whose grid the label map must be.
        settings: which values mean what.

    Returns:
        uint8: `MANDIBLE`, `SKULL`, or 0.

    Raises:
        VolumeError: it is the scan itself, lies on another grid, or holds none of the values.
    """
    if os.path.realpath(path) == os.path.realpath(scan):
        raise VolumeError(f"{path}: is scan and label map at once. Give the label map of the scan, or none.")
    label = orient(*read_volume(path), str(path))
    _check_same_grid(path, label, source)
    classes = np.zeros(label.voxels.shape, dtype=np.uint8)
    classes[np.isin(label.voxels, settings.mandible)] = MANDIBLE
    classes[np.isin(label.voxels, settings.skull)] = SKULL
    if not classes.any():
        raise VolumeError(
            f"{path}: holds neither mandible {list(settings.mandible)} nor skull {list(settings.skull)}, only "
            f"{np.unique(label.voxels)[:_NAMED].tolist()}. Say which values they are with --mandible and --skull."
        )
    return OrientedScan(classes, label.affine)


def _check_same_grid(path: Path, label: OrientedScan, source: OrientedScan) -> None:
    """Raise unless a label map has the voxels of its scan, at the same places."""
    corner = np.array(source.voxels.shape) - 1
    apart = max(
        float(np.linalg.norm(moved(label.affine, at) - moved(source.affine, at))) for at in (0 * corner, corner)
    )
    if label.voxels.shape != source.voxels.shape or apart > _APART_VOX * spacing_of(source.affine).min():
        raise VolumeError(
            f"{path}: the label map is not on the grid of its scan: {times(label.voxels.shape)} and "
            f"{times(source.voxels.shape)} voxels in RAS axes, corners {apart:.1f} mm apart. Resample it onto the scan."
        )
