"""A DICOM series in a folder as one volume: even series as they are, tilted or uneven ones resampled."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import numpy as np

from bertswin_ext.data.reading.slice_stack import DUPLICATE_MM, Floats, SliceStack, Values, resample
from bertswin_ext.errors import VolumeError, times
from bertswin_ext.voxels import AIR_HU

logger = logging.getLogger(__name__)

_ORIENTATION, _POSITION, _SPACING = "0020|0037", "0020|0032", "0028|0030"
_SERIES, _NUMBER = "0020|000e", "0020|0013"
_PADDING, _INTERCEPT, _SLOPE = "0028|0120", "0028|1052", "0028|1053"
_TAGS = (_ORIENTATION, _POSITION, _SPACING, _SERIES, _NUMBER, _PADDING, _INTERCEPT, _SLOPE)
_PADDING_BELOW_HU = -900.0  # a padding value above this could be tissue, so it is left alone
_DIRECTION_TOLERANCE = 1e-3
_NAMED = 5
_SEGMENTATIONS = tuple(f"1.2.840.10008.5.1.4.1.1.66.{kind}".encode() for kind in (4, 5, 7))
_KIND = b"\x02\x00\x02\x00UI"  # the tag in the first bytes of a file that names what it holds


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM image file says about itself.

    Args:
        path: the file.
        tags: the text of the tags used here (no patient data), by ``"group|element"``.
        size: columns, rows and frames.
        components: numbers per voxel.
    """

    path: Path
    tags: dict[str, str]
    size: tuple[int, int, int]
    components: int

    def numbers(self, tag: str, count: int) -> Floats:
        """Return the numbers of a geometry tag.

        Raises:
            VolumeError: if the tag is missing or does not hold that many numbers.
        """
        text = self.tags.get(tag, "")
        try:
            numbers = np.array([float(part) for part in text.split("\\")])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise VolumeError(
                f"{self.path}: DICOM tag ({tag.replace('|', ',')}) must hold {count} numbers, got '{text}'. "
                "Without it the slice has no place in space: export the series again as original CT images."
            )
        return numbers

    def number(self, tag: str) -> float | None:
        """Return a single number, or ``None`` if the tag is missing or not a number."""
        try:
            return float(self.tags[tag])
        except (KeyError, ValueError):
            return None


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file is DICOM: suffix ``.dcm``, or ``DICM`` at byte 128 (and not a DICOMDIR)."""
    if path.name.upper() == "DICOMDIR" or path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_segmentation_file(path: Path) -> bool:
    """Tell whether a DICOM file says in its first bytes that it is a segmentation, not an image."""
    with path.open("rb") as file:
        head = file.read(1024)
    start = head.find(_KIND) + len(_KIND) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    return _KIND in head and head[start : start + length].rstrip(b"\0 ") in _SEGMENTATIONS


def read_header(path: Path) -> DicomHeader:
    """Read a DICOM file up to its pixels.

    Raises:
        VolumeError: if the file is not a DICOM image.
    """
    io = itk.GDCMImageIO.New()
    io.SetFileName(str(path))
    try:
        io.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: is not a readable DICOM image. Copy the file again if it is damaged; if it is a report, "
            "a structure set or another object without pixels, move it out of the folder."
        ) from error
    dictionary = io.GetMetaDataDictionary()
    size = [int(io.GetDimensions(axis)) for axis in range(io.GetNumberOfDimensions())]
    columns, rows, frames = (*size, 1)[:3]
    return DicomHeader(
        path=path,
        tags={tag: str(dictionary[tag]).strip("\0 ") for tag in _TAGS if dictionary.HasKey(tag)},
        size=(columns, rows, frames),
        components=int(io.GetNumberOfComponents()),
    )


def read_series(folder: Path) -> tuple[Any, str]:
    """Read the one DICOM series of a folder in HU.

    Args:
        folder: a folder whose DICOM files belong to one series; sub-folders are not looked at.

    Returns:
        The ITK image (float32, LPS) and a note, empty unless the series had to be resampled because its
        slices are tilted against their stacking direction or unevenly spaced.

    Raises:
        VolumeError: if the folder holds no DICOM or several series, if slices are missing or doubled, differ
            in size, spacing or orientation, or do not say where they are.
    """
    headers = _one_series(folder)
    if len(headers) == 1 and headers[0].size[2] > 1:
        return read_multi_frame(headers[0]), ""
    headers, stack = _stack(folder, headers)
    _check_complete(folder, headers, stack)
    if stack.is_even() and stack.is_upright():
        image = itk.imread([str(header.path) for header in headers], itk.F)
        _padding_to_air(itk.array_view_from_image(image), headers[0])
        return image, ""
    image = _resampled(headers, stack)
    note = _note(stack, image)
    logger.warning("%s: %s", folder, note)
    return image, note


def read_multi_frame(header: DicomHeader) -> Any:
    """Read a DICOM file that holds a whole volume, as an ITK image; its geometry is taken on trust.

    Raises:
        VolumeError: if the file holds one slice, or colours.
    """
    path, size = header.path, header.size
    if header.components != 1:
        raise VolumeError(f"{path}: is a colour image; a volume has one value per voxel. Convert it to grey values.")
    if size[2] == 1:
        raise VolumeError(
            f"{path}: is one slice of {size[0]} x {size[1]} voxels. Name the folder of the series: {path.parent}."
        )
    logger.warning("%s: multi-frame DICOM: the positions of its slices are taken on trust.", path)
    return itk.imread(str(path), itk.F)


def _one_series(folder: Path) -> list[DicomHeader]:
    """Read all headers of a folder and check that they are slices of one series."""
    files = sorted(path for path in folder.iterdir() if is_dicom_file(path) and not is_segmentation_file(path))
    if not files:
        raise VolumeError(
            f"{folder}: the folder holds no DICOM file (suffix .dcm, or 'DICM' at byte 128). "
            "Name the folder that directly holds the slices, or a volume file."
        )
    headers = [read_header(path) for path in files]
    counts = Counter(header.tags.get(_SERIES, "") for header in headers)
    if len(counts) > 1:
        listed = "".join(f"\n  - {uid or '(no UID)'}: {count} files" for uid, count in sorted(counts.items()))
        raise VolumeError(
            f"{folder}: the folder holds {len(counts)} DICOM series, not one. "
            f"Put every series into a folder of its own:{listed}"
        )
    colour = [header.path.name for header in headers if header.components != 1]
    if colour:
        raise VolumeError(f"{folder}: {colour[0]} is a colour image. Remove it; a volume has one value per voxel.")
    flat = [header.path.name for header in headers if header.number(_SLOPE) == 0]
    if flat:
        raise VolumeError(
            f"{folder}: RescaleSlope of {flat[0]} is 0, which would make every voxel the same. Export the series again."
        )
    return headers


def _stack(folder: Path, headers: list[DicomHeader]) -> tuple[list[DicomHeader], SliceStack]:
    """Order the slices along their normal and check that they are parallel and alike."""
    if len(headers) == 1:
        raise VolumeError(
            f"{folder}: the series has a single slice ({headers[0].path.name}). "
            "A volume needs at least 2: copy the missing slices into the folder, or remove it from the datalist."
        )
    _check_alike(folder, headers)
    orientation = headers[0].numbers(_ORIENTATION, 6)
    row, column = orientation[:3], orientation[3:]
    positions = np.stack([header.numbers(_POSITION, 3) for header in headers])
    order = np.argsort(positions @ np.cross(row, column), kind="stable")
    # the tag names the step between rows first
    spacing = headers[0].numbers(_SPACING, 2)[::-1]
    stack = SliceStack(
        origins_mm=positions[order],
        row_direction=row / np.linalg.norm(row),
        column_direction=column / np.linalg.norm(column),
        spacing_mm=spacing,
        size=headers[0].size[:2],
    )
    return [headers[index] for index in order], stack


def _check_alike(folder: Path, headers: list[DicomHeader]) -> None:
    """Raise if slices differ in size, spacing or orientation, or if the spacing or orientation is impossible."""
    first = headers[0]
    orientation, spacing = first.numbers(_ORIENTATION, 6), first.numbers(_SPACING, 2)
    axes = orientation.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_DIRECTION_TOLERANCE):
        raise VolumeError(
            f"{first.path}: ImageOrientationPatient must be two perpendicular unit vectors, got "
            f"{orientation.tolist()}. Export the series again."
        )
    if not (spacing > 0).all():
        raise VolumeError(
            f"{first.path}: PixelSpacing must be above 0 mm, got {spacing.tolist()}. Export the series again."
        )
    remedy = "Move the slices that do not belong (a localizer, a second reconstruction) out of the folder."
    for header in headers[1:]:
        if header.size[2] > 1 and first.size[2] > 1:
            fault = "hold several slices each, but a folder is one volume"
        elif header.size != first.size:
            fault = f"differ in size ({times(first.size)} and {times(header.size)})"
        elif not np.allclose(header.numbers(_SPACING, 2), spacing, rtol=1e-3):
            fault = "differ in pixel spacing"
        elif not np.allclose(header.numbers(_ORIENTATION, 6), orientation, atol=_DIRECTION_TOLERANCE):
            fault = "are not parallel"
        else:
            continue
        raise VolumeError(f"{folder}: {first.path.name} and {header.path.name} {fault}. {remedy}")


def _check_complete(folder: Path, headers: list[DicomHeader], stack: SliceStack) -> None:
    """Raise if slices are doubled or missing."""
    gaps = stack.gaps_mm
    doubled = [int(gap) for gap in np.flatnonzero(gaps < DUPLICATE_MM)]
    if doubled:
        raise VolumeError(
            f"{folder}: {len(doubled)} slices are at the position of another slice{_pairs(headers, doubled)}\n"
            "Keep one time point and one reconstruction per folder."
        )
    numbers = [header.number(_NUMBER) for header in headers]
    missing = stack.holes([None if number is None else int(number) for number in numbers])
    if missing:
        widths = ", ".join(f"{gaps[gap]:.2f}" for gap in missing[:_NAMED])
        raise VolumeError(
            f"{folder}: slices are missing: the usual distance is {np.median(gaps):.2f} mm, but there are gaps of "
            f"{widths} mm{_pairs(headers, missing)}\n"
            "Copy the missing slices into the folder, or remove it from the datalist."
        )


def _pairs(headers: list[DicomHeader], gaps: list[int]) -> str:
    """List the files on both sides of some gaps."""
    lines = [f"\n  - {headers[gap].path.name} and {headers[gap + 1].path.name}" for gap in gaps[:_NAMED]]
    return "".join(lines) + ("\n  - ..." if len(gaps) > _NAMED else "")


def _resampled(headers: list[DicomHeader], stack: SliceStack) -> Any:
    """Resample the slices onto an upright regular grid, as an ITK image."""
    values, grid = resample(stack, lambda index: _slice_hu(headers[index]))
    image = itk.image_view_from_array(values)
    image.SetOrigin(grid.origin_mm)
    image.SetSpacing(grid.spacing_mm)
    axes = np.stack([stack.row_direction, stack.column_direction, stack.normal], axis=1)
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(axes)))
    return image


def _slice_hu(header: DicomHeader) -> Values:
    """Read one slice in HU, with padding turned into air so that it cannot blend into tissue."""
    array = itk.array_from_image(itk.imread(str(header.path), itk.F))
    values = np.asarray(array, dtype=np.float32).reshape(header.size[1], header.size[0])
    _padding_to_air(values, header)
    return values


def _padding_to_air(values: Values, header: DicomHeader) -> None:
    """Turn voxels that the scanner has not seen into air, in place."""
    padding = header.number(_PADDING)
    if padding is not None:
        slope, intercept = header.number(_SLOPE), header.number(_INTERCEPT)
        padding_hu = padding * (1.0 if slope is None else slope) + (intercept or 0.0)
        if padding_hu <= _PADDING_BELOW_HU:
            values[values <= padding_hu] = AIR_HU


def _note(stack: SliceStack, image: Any) -> str:
    """Say what was wrong with the slices and what was done."""
    faults = []
    gaps = stack.gaps_mm
    if not stack.is_even():
        faults.append(f"unevenly spaced slices ({gaps.min():.2f} to {gaps.max():.2f} mm along their normal)")
    if not stack.is_upright():
        faults.append(f"slices tilted by {stack.tilt_deg:.1f} degrees against their stacking direction")
    size, spacing = itk.size(image), image.GetSpacing()
    return (
        f"{' and '.join(faults)}: resampled from {times((*stack.size, len(gaps) + 1))} onto an upright grid of "
        f"{times(size)} voxels, {times(spacing, '.3f')} mm"
    )
