"""Open every volume of a datalist before a long run does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.data.datalist import Item, load_datalist
from bertswin_ext.data.preparation.intensity import why_not_hu
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.errors import VolumeError, listed, times
from bertswin_ext.geometry import FieldOfView, is_inside, moved

Array = npt.NDArray[Any]

_SPACING_MM = (0.01, 10.0)


def check_datalist(
    dataset: str | Path,
    fold: int = 0,
    spacing_mm: float | Sequence[float] | None = None,
    img_size: int | Sequence[int] | None = None,
) -> None:
    """Load a datalist, open every volume, and print a table with one line per volume.

    A line says: file, patient, shape (i, j, k), spacing in mm, smallest and largest value, verdict. What may be
    right but looks odd (values that are not HU, a resampled DICOM series) is a notice, not a fault. A label
    must cover the same part of space as its image, in voxels of the same size.

    Args:
        dataset: path of a ``.json`` datalist, or of a folder.
        fold: fold to validate on.
        spacing_mm: edge of a voxel that the volumes will be resampled to, one number or three for i, j, k in RAS axes.
        img_size: voxels per axis of the crop that must fit in after that, one number or three; may be one voxel larger
            than the volume, see :func:`~bertswin_ext.transforms.volume_preprocessing`. Prepared regions may be smaller.

    Raises:
        ValueError: with all faults of the list, or else with all faults of all volumes; ``spacing_mm`` and ``img_size``
            are not given together, or not positive.
    """
    crop = _crop(spacing_mm, img_size)
    datalist = load_datalist(dataset, fold=fold)
    source = Path(datalist.source)
    folder = source if source.is_dir() else source.parent
    views: dict[tuple[Any, Any], list[Item]] = {}
    for item in datalist.training + datalist.validation:
        views.setdefault((item["image"], item.get("label")), []).append(item)
    names = [os.path.relpath(image, folder) for image, _ in views]
    patients = [joints[0]["patient"] for joints in views.values()]
    widths = [max(map(len, ["file", *names])), max(map(len, ["patient", *patients]))]
    _write_line(widths, "file", "patient", "shape", "spacing mm", "values", "verdict")
    faults = []
    for name, patient, joints in zip(names, patients, views.values(), strict=True):
        cells, verdict, found = _check_item(joints, crop, is_prepared=datalist.prepared is not None)
        _write_line(widths, name, patient, *cells, verdict)
        faults += found
    training, validation = len(datalist.training), len(datalist.validation)
    sys.stdout.write(f"{training} training and {validation} validation items, sha256 {datalist.sha256}\n")
    if faults:
        raise ValueError(listed(faults, datalist.source))


def _write_line(widths: list[int], *cells: str) -> None:
    """Write one line of the table."""
    padded = [cell.ljust(width) for cell, width in zip(cells, [*widths, 15, 19, 16, 0], strict=True)]
    sys.stdout.write("  ".join(padded).rstrip() + "\n")


@dataclass(frozen=True)
class _Crop:
    """What must fit into a volume: three spacings and three sizes, in RAS axes."""

    spacing_mm: tuple[float, ...]
    img_size: tuple[int, ...]

    def faults(self, shape: tuple[int, ...], affine: Array) -> list[str]:
        """List the axes along which a volume is too small; the arithmetic is that of MONAI's ``Spacing``."""
        axes = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
        own = np.linalg.norm(affine[:3, :3], axis=0)
        sizes = [
            round((shape[axis] - 1) * own[axis] / new) + 1 for axis, new in zip(axes, self.spacing_mm, strict=True)
        ]
        short = [letter for letter, n, crop in zip("ijk", sizes, self.img_size, strict=True) if n + 1 < crop]
        if not short:
            return []
        return [
            f"{times(sizes)} voxels at {times(self.spacing_mm)} mm (RAS axes) are fewer than the crop "
            f"{times(self.img_size)} along {', '.join(short)}. Use a smaller `img_size` or a finer `spacing_mm`, pad "
            "the volume, or remove it from the datalist."
        ]


def _crop(spacing_mm: float | Sequence[float] | None, img_size: int | Sequence[int] | None) -> _Crop | None:
    """Return the crop to check for, if there is one."""
    if spacing_mm is None and img_size is None:
        return None
    if spacing_mm is None or img_size is None:
        raise ValueError(
            "`spacing_mm` and `img_size` must be given together: a size in voxels says nothing without their edge. Add "
            f"`{'spacing_mm' if spacing_mm is None else 'img_size'}`, or leave both out."
        )
    return _Crop(
        tuple(_three("spacing_mm", spacing_mm)), tuple(int(size) for size in _three("img_size", img_size, int))
    )


def _three(name: str, value: Any, *kinds: type) -> list[Any]:
    """Return three positive numbers for one or three."""
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * 3
    right = [type(number) in (kinds or (int, float)) and number > 0 for number in numbers]
    if len(numbers) != 3 or not all(right):
        kind = "whole numbers" if kinds else "numbers"
        raise ValueError(f"`{name}` must be one or three positive {kind}, got {value!r}. Use the bundle's `{name}`.")
    return numbers


def _check_item(joints: Sequence[Item], crop: _Crop | None, is_prepared: bool) -> tuple[list[str], str, list[str]]:
    """Open the image of some items and its label; return the cells of the table, the verdict and the faults."""
    item = joints[0]
    try:
        array, meta = _read(item["image"])
    except VolumeError as error:
        return ["-", "-", "-"], "FAULT", [str(error)]
    affine = np.asarray(meta["affine"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = float(array.min()), float(array.max())
    cells = [times(array.shape), times(spacing, ".3g"), f"{low:g}..{high:g}"]
    faults = [f"{item['image']}: {fault}" for fault in _value_faults(low, high)]
    centers = [fault for joint in joints for fault in _center_faults(joint, array.shape, affine)]
    # a single patient's items are both to train and to validate on
    faults += [f"{item['image']}: {fault}" for fault in dict.fromkeys(centers)]
    small = [] if crop is None else crop.faults(array.shape, affine)
    if not is_prepared:
        faults += [f"{item['image']}: {fault}" for fault in small]
    if "label" in item:
        faults += _label_faults(item, array, affine)
    notices = [*_notices(array, spacing), *([meta["resampling"]] if "resampling" in meta else [])]
    if is_prepared and small:
        notices.append("smaller than the crop: what lies beyond the region is never visible and never scored")
    verdict = "; ".join(["FAULT"] * bool(faults) + [f"notice: {notice}" for notice in notices])
    return cells, verdict or "ok", faults


def _read(path: str) -> tuple[Array, dict[str, Any]]:
    """Read one volume."""
    reader = VolumeReader()
    return reader.get_data(reader.read(path))


def _center_faults(item: Item, shape: tuple[int, ...], affine: Array) -> list[str]:
    """List joints that lie outside their image, or outside what the scanner saw."""
    if "center_mm" not in item:
        return []
    if not is_inside(moved(np.linalg.inv(affine), item["center_mm"]), shape):
        return [f'"center_mm" {item["center_mm"]} lies outside the volume. Is it LPS, or of another scan?']
    if "fov" in item and not FieldOfView.of_item(item["fov"]).contains(item["center_mm"]):
        return [f'"center_mm" {item["center_mm"]} lies outside the field of view {item["fov"]}. Correct one of them.']
    return []


def _value_faults(low: float, high: float) -> list[str]:
    """List values that nothing can be learnt from."""
    if not np.isfinite([low, high]).all():
        return ["holds NaN or infinite voxels. Replace them, or remove the volume from the datalist."]
    if low == high:
        return [f"every voxel is {low:g}. Remove the volume from the datalist."]
    return []


def _notices(array: Array, spacing: Array) -> list[str]:
    """List what looks odd but may be right."""
    reason = why_not_hu(array)
    notices = [reason] if reason else []
    if spacing.min() < _SPACING_MM[0] or spacing.max() > _SPACING_MM[1]:
        notices.append(f"a spacing of {times(spacing, '.3g')} mm is unusual")
    return notices


def _label_faults(item: Item, image: Array, affine: Array) -> list[str]:
    """List what is wrong with the label of an image."""
    try:
        label, meta = _read(item["label"])
    except VolumeError as error:
        return [str(error)]
    corners, others = _corners(image.shape, affine), _corners(label.shape, np.asarray(meta["affine"]))
    # flipped or swapped axes are no fault: every corner must have one of the other volume beside it
    apart = np.linalg.norm(corners[:, None] - others[None], axis=-1).min(axis=1).max()
    if sorted(label.shape) == sorted(image.shape) and apart < 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min():
        return []
    return [
        f"{item['label']}: the label is not on the grid of its image: {times(label.shape)} and "
        f"{times(image.shape)} voxels, corners up to {apart:.1f} mm apart. "
        "Resample the label onto the image, or remove it."
    ]


def _corners(shape: tuple[int, ...], affine: Array) -> Array:
    """Return the positions of the 8 corner voxels, in mm, ``(8, 3)``."""
    indices = np.stack(np.meshgrid(*[(0, size - 1) for size in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3])
