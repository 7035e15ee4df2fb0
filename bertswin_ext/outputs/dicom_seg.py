"""A label map as DICOM SEG, beside the series it was made from: coded anatomy, the same patient, study and space."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext import __version__
from bertswin_ext.errors import VolumeError, times
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats, moved, spacing_of
from bertswin_ext.outputs.dicom_source import DicomSource, load_dicom_package, quiet_dicom, read_dicom_source

__all__ = ["ANATOMY", "Anatomy", "SegAlgorithm", "write_dicom_seg"]

Labels = npt.NDArray[np.uint8]

SERIES_DESCRIPTION = "Segmentation: research use, not a medical device"  # DICOM allows 64 characters

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SHEAR_TOLERANCE = 1e-3
_MOST_CLASSES = 255
_SERIES_NUMBER = 9000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anatomy:
    """What a class stands for.

    Args:
        code: its number in SNOMED CT.
        meaning: the term that goes with it.
        rgb: colour to show it in, from 0 to 255.
    """

    code: str
    meaning: str
    rgb: tuple[int, int, int]


ANATOMY = {
    "mandible": Anatomy("91609006", "Mandible", (222, 138, 60)),
    "skull": Anatomy("89546000", "Skull", (86, 156, 214)),
    "temporal bone": Anatomy("60911003", "Temporal Bone", (86, 156, 214)),
    "maxilla": Anatomy("70925003", "Maxilla", (120, 190, 120)),
}
"""Classes by name, with the codes of DICOM PS3.16, CID 7151."""


@dataclass(frozen=True)
class SegAlgorithm:
    """What made a label map, as the file will tell its readers.

    Args:
        name: of the method.
        version: of the software.
        weights_sha256: hash of the weights; empty if unknown.
    """

    name: str = "BertsWin"
    version: str = __version__
    weights_sha256: str = ""


def write_dicom_seg(
    label: str | Path | npt.ArrayLike,
    affine: npt.ArrayLike | None,
    series: str | Path,
    path: str | Path,
    class_names: Sequence[str],
    *,
    algorithm: SegAlgorithm | None = None,
    anatomy: Mapping[str, Anatomy] = ANATOMY,
    replace_missing_uids: bool = False,
) -> list[str]:
    """Write a label map as a binary DICOM SEG, one segment for each class.

    The voxels are stored where they lie, on the label's own grid: only the order of its axes is changed, to that of the
    series. If that grid is the series', every frame names the slice it belongs to; on the grid of a tilted or uneven
    series, which `VolumeReader` resamples, the file refers to the series as a whole. Patient and study are those of the
    series, word for word; nothing of them is logged.

    Args:
        label: label map (i, j, k) of integers, or its file; the value ``v`` stands for ``class_names[v]``.
        affine: voxel to RAS world in mm, (4, 4); None for a file, which has one.
        series: folder of the series, or the multi-frame file, that was segmented.
        path: file to write.
        class_names: names of the classes, the background first.
        algorithm: what made the label map; this package by default.
        anatomy: what the classes stand for, by name.
        replace_missing_uids: see `read_dicom_source`; off, a series without UIDs is refused.

    Returns:
        What a reader of the file should know, for a report: classes without a voxel, frames without a slice.

    Raises:
        ImportError: highdicom is not installed.
        ValueError: a class has no code, or the label map has others.
        VolumeError: the series or the label's grid cannot be described in DICOM, or they do not lie together.

    Example:
        >>> write_dicom_seg("label.nii.gz", None, "scans/series_2", "label.dcm", ["background", "mandible", "skull"])
        ... # doctest: +SKIP
        []
    """
    load_dicom_package("highdicom")
    labels, matrix = _labels(label, affine)
    empty = _empty_classes(labels, class_names, anatomy)
    source = read_dicom_source(series, replace_missing_uids)
    frames, placed = _in_series_order(labels, _LPS @ _without_shear(matrix), source.axes)
    _check_overlap(series, source, labels.shape, matrix)
    algorithm = algorithm or SegAlgorithm()
    segments = _segments(class_names[1:], empty, anatomy, algorithm)
    with quiet_dicom(), _faults_named(series):
        data = _segmentation(frames, placed, source, segments, algorithm)
        has_slices = _refer(data, source)
        with written_whole(path) as temporary:
            data.save_as(temporary, enforce_file_format=True)
    notes = _notes(empty, source, has_slices)
    for note in notes:
        logger.warning("%s: %s", path, note)
    return notes


# --- the label map ---


def _labels(label: str | Path | npt.ArrayLike, affine: npt.ArrayLike | None) -> tuple[Labels, Floats]:
    """Voxels and affine of a label map."""
    if isinstance(label, str | Path):
        image: Any = nib.load(label)
        label, affine = np.asarray(image.dataobj), image.affine if affine is None else affine
    values = np.asarray(label)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if affine is None or np.shape(affine) != (4, 4):
        raise ValueError("A label map must come with its `affine` (4, 4), voxel to RAS world, or as a file.")
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"A label map must be one volume (i, j, k), got {times(values.shape)} voxels.")
    return _as_uint8(values), np.asarray(affine, dtype=np.float64)


def _as_uint8(values: npt.NDArray[Any]) -> Labels:
    """Label values in one byte."""
    if values.dtype == np.uint8:
        return values
    if values.min() < 0 or values.max() > _MOST_CLASSES or not (labels := values.astype(np.uint8)).size:
        raise ValueError(f"A label map must hold 0 to {_MOST_CLASSES}, got {values.min()} to {values.max()}.")
    if values.dtype.kind == "f" and not np.array_equal(labels, values):
        raise ValueError("A label map must hold whole numbers, one for each class. Give labels, not probabilities.")
    return labels


def _empty_classes(labels: Labels, class_names: Sequence[str], anatomy: Mapping[str, Anatomy]) -> list[str]:
    """Names of the classes that no voxel has."""
    unknown = [name for name in class_names[1:] if name not in anatomy]
    if len(class_names) < 2 or unknown:
        raise ValueError(
            f"`class_names` must be the background and classes with a code ({', '.join(anatomy)}), got "
            f"{list(class_names)}. Give the others a code through `anatomy`."
        )
    # plane by plane, as bincount needs eight bytes for each voxel
    found = np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=_MOST_CLASSES + 1) for plane in labels))
    if found[-1] >= len(class_names):
        raise ValueError(f"The label map holds {found[-1]}, but `class_names` ends at {len(class_names) - 1}.")
    return [name for value, name in enumerate(class_names) if value and value not in found]


# --- where it lies ---


def _without_shear(affine: Floats) -> Floats:
    """The affine with axes exactly at right angles, which rounding in a file leaves them not quite at."""
    spacing = spacing_of(affine)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise VolumeError(f"The label's affine must be finite, with a spacing above 0, got {affine.tolist()}.")
    axes = affine[:3, :3] / spacing
    left, _, right = np.linalg.svd(axes)
    if np.abs(left @ right - axes).max() > _SHEAR_TOLERANCE:
        raise VolumeError(
            "The label's axes must be at right angles, as DICOM has no other grids. Segment the scan as `VolumeReader` "
            "gives it, or resample the label onto an upright grid."
        )
    upright = affine.copy()
    upright[:3, :3] = left @ right * spacing
    return upright


def _in_series_order(labels: Labels, lps: Floats, axes: Floats | None) -> tuple[Labels, Floats]:
    """The same voxels with axes (slice, row, column), ordered and directed as in the series; a view, not a copy."""
    if axes is None:
        return labels.transpose(2, 1, 0), lps[:, [2, 1, 0, 3]]
    likeness = axes.T @ (lps[:3, :3] / spacing_of(lps))
    order = max(permutations(range(3)), key=lambda p: sum(abs(likeness[a, b]) for a, b in enumerate(p)))
    view, placed = labels.transpose(order), lps[:, [*order, 3]]
    for axis, index in enumerate(order):
        if likeness[axis, index] < 0:
            view = np.flip(view, axis)
            placed[:3, 3] += placed[:3, axis] * (view.shape[axis] - 1)
            placed[:3, axis] *= -1
    return view, placed


def _check_overlap(series: str | Path, source: DicomSource, shape: Sequence[int], affine: Floats) -> None:
    """Raise unless the middle of a slice of the series lies in the label map."""
    if not source.has_planes:
        return
    inverse = np.linalg.inv(_LPS @ affine)
    index = np.stack([moved(inverse, _middle(image)) for image in source.images])
    if not ((index >= -0.5) & (index <= np.array(shape) - 0.5)).all(axis=1).any():
        raise VolumeError(f"{series}: the label map lies beside all of its slices. It is that of another scan.")


def _middle(image: Any) -> Floats:
    """Middle of a slice, LPS in mm."""
    along, down = np.array(image.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    step_down, step_along = map(float, image.PixelSpacing)
    corner = np.array(image.ImagePositionPatient, dtype=np.float64)
    return np.asarray(corner + along * step_along * (image.Columns - 1) / 2 + down * step_down * (image.Rows - 1) / 2)


# --- the file ---


def _segments(
    names: Sequence[str], empty: Sequence[str], anatomy: Mapping[str, Anatomy], algorithm: SegAlgorithm
) -> list[Any]:
    """One description for each class."""
    highdicom, code = load_dicom_package("highdicom"), load_dicom_package("pydicom.sr.coding").Code
    identity = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=code("123110", "DCM", "Artificial Intelligence"),
        version=algorithm.version,
        parameters={"weights_sha256": algorithm.weights_sha256} if algorithm.weights_sha256 else None,
    )
    segments = []
    for number, name in enumerate(names, 1):
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=code("91723000", "SCT", "Anatomical Structure"),
            segmented_property_type=code(anatomy[name].code, "SCT", anatomy[name].meaning),
            algorithm_type="AUTOMATIC",
            algorithm_identification=identity,
            display_color=highdicom.color.CIELabColor.from_rgb(*anatomy[name].rgb),
        )
        if name in empty:
            segment.SegmentDescription = "No voxel of this class was found."
        segments.append(segment)
    return segments


@contextmanager
def _faults_named(series: str | Path) -> Iterator[None]:
    """Turn what the DICOM packages raise into an error that names the series, and quotes nothing of the patient."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise VolumeError(
            f"{series}: its headers break the rules of DICOM ({type(error).__name__}), and no DICOM SEG can be made of "
            "it. Export the series again."
        ) from None


def _segmentation(
    frames: Labels, placed: Floats, source: DicomSource, segments: Sequence[Any], algorithm: SegAlgorithm
) -> Any:
    """The data set, with an empty patient."""
    highdicom, new_uid = load_dicom_package("highdicom"), load_dicom_package("pydicom.uid").generate_uid
    _fit_images(source, placed)
    return highdicom.seg.Segmentation(
        source_images=source.images,
        pixel_array=highdicom.Volume(frames, placed, "PATIENT"),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=new_uid(prefix=None),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=new_uid(prefix=None),
        instance_number=1,
        manufacturer="BertsWin Bundles",
        manufacturer_model_name="bertswin_ext",
        software_versions=__version__,
        device_serial_number=algorithm.weights_sha256[:16] or "none",
        content_label="SEGMENTATION",
        content_description="Automatic segmentation. Research only.",
        content_qualification="RESEARCH",
        series_description=SERIES_DESCRIPTION,
    )


def _fit_images(source: DicomSource, placed: Floats) -> None:
    """Give the images the label's spacing between slices; highdicom repeats theirs, which scanners get wrong."""
    for image in source.images:
        image.SpacingBetweenSlices = image.SliceThickness = float(np.round(spacing_of(placed)[0], 8))
        if not source.has_planes:
            # any place will do, as no slice is referred to
            image.ImagePositionPatient, image.PixelSpacing = placed[:3, 3].tolist(), spacing_of(placed)[1:].tolist()
            axes = placed[:3, :3] / spacing_of(placed)
            image.ImageOrientationPatient = [*axes[:, 2].tolist(), *axes[:, 1].tolist()]


def _refer(data: Any, source: DicomSource) -> bool:
    """Fill in patient and study, and refer to what exists; tell whether the frames name their slices."""
    for element in source.about:
        data.add(element)
    groups = data.PerFrameFunctionalGroupsSequence
    origins = [origin for group in groups for origin in group.get("DerivationImageSequence") or []]
    named = [slice_ for origin in origins for slice_ in origin.SourceImageSequence]
    in_place = all(slice_.get("SpatialLocationsPreserved") == "YES" for slice_ in named)
    has_slices = source.is_known and source.has_planes and in_place and len(origins) == len(groups)
    if not has_slices:
        # a viewer may lay a frame on the slice it names, pixel by pixel
        for group in groups:
            group.pop("DerivationImageSequence", None)
    if not source.is_known:
        del data.SourceImageSequence, data.ReferencedSeriesSequence
    for reference in [*data.get("SourceImageSequence", []), *named]:
        reference.ReferencedSOPClassUID = source.sop_class
    return has_slices


def _notes(empty: Sequence[str], source: DicomSource, has_slices: bool) -> list[str]:
    """What a reader of the file should know."""
    notes = [f"the DICOM segment {name} is empty: no voxel of this class was found" for name in empty]
    if not source.is_known:
        notes.append("the series has no UIDs of its own: the DICOM SEG has made-up ones and refers to no image")
    elif not has_slices:
        notes.append("the DICOM SEG lies on a grid of its own: it refers to the series as a whole, not slice by slice")
    return notes
