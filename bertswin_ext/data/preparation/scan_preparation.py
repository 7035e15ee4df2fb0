"""One scan from its file to stored volumes, with a record of what was found and done."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.data.preparation.intensity import IntensityMap, count_outside_window, to_int16
from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.scan_joints import cut_off, field_of_view_of, joints_of
from bertswin_ext.data.preparation.scan_reading import check_voxels, intensity_of, read_label, read_volume
from bertswin_ext.data.preparation.scan_thumbnail import hu_histogram, write_thumbnail
from bertswin_ext.data.preparation.scans import Scan
from bertswin_ext.data.preparation.store import Record
from bertswin_ext.data.preparation.working_grid import Box, OrientedScan, WorkingGrid, orient
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import FieldOfView, spacing_of
from bertswin_ext.stored_volume import write_stored_volume

__all__ = ["NO_SPACE", "prepare_scan", "refused"]

logger = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors that say that the disk is full, or this user's share of it."""

Region = tuple[JointCenter | None, Box]

_SLAB_VOXELS = 1 << 25


def prepare_scan(scan: Scan, settings: PreparationSettings, directory: Path) -> Record:
    """Read a scan, check it, and store its regions.

    Args:
        scan: the scan.
        settings: what to store.
        directory: the store; ``images``, ``labels`` and ``thumbnails`` are written below it.

    Returns:
        The record of `scan_report`; a scan that cannot be used is a record as well, with the reason.

    Raises:
        OSError: the disk is full.
    """
    record = refused(scan)
    with _warnings_noted(record["reasons"]):
        try:
            _prepare(scan, settings, directory, record)
        except Exception as error:  # whatever is wrong with a scan, the others are prepared
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise
            return {**record, "items": [], "reasons": [*record["reasons"], _said(error, scan)]}
    return {**record, "verdict": "notice" if record["reasons"] else "ok"}


def refused(scan: Scan, *reasons: str) -> Record:
    """The record of a scan of which nothing is known yet but why it cannot be used."""
    known = {"scan": scan.scan, "name": scan.name, "patient": scan.patient, "section": scan.section}
    unknown = dict.fromkeys(["shape", "spacing_mm", "orientation", "values", "histogram", "fov", "fov_origin"])
    counts = dict.fromkeys(["outside_window", "clipped", "stored_voxels"], 0)
    stored: Record = {"intensity": None, "items": [], "thumbnail": None}
    return {**known, "verdict": "refused", "reasons": list(reasons), **unknown, **counts, **stored}


# --- looking at it ---


@dataclass(frozen=True)
class _Found:
    """A scan that has been read and checked."""

    source: OrientedScan
    label: OrientedScan | None
    fov: FieldOfView | None
    intensity: IntensityMap
    grid: WorkingGrid


def _prepare(scan: Scan, settings: PreparationSettings, directory: Path, record: Record) -> None:
    """Store the regions of a scan, and fill in its record as far as it comes."""
    if scan.fault:
        raise VolumeError(scan.fault)
    found = _look(scan, settings, record)
    record["thumbnail"] = f"thumbnails/{scan.name}.png"
    try:
        regions = _regions(scan, settings, record, found)
    except VolumeError:
        # a picture to look for the joints in
        _draw(directory / record["thumbnail"], found, [])
        raise
    _draw(directory / record["thumbnail"], found, regions)
    for joint, box in regions:
        record["items"].append(_store(scan, directory, record, found, joint, box))


def _look(scan: Scan, settings: PreparationSettings, record: Record) -> _Found:
    """Read and check a scan."""
    voxels, affine = read_volume(scan.path)
    record["shape"], record["spacing_mm"] = list(voxels.shape), [round(float(s), 6) for s in spacing_of(affine)]
    record["orientation"] = "".join(nib.aff2axcodes(affine))
    check_voxels(scan.path, voxels, settings.intensity)
    source = orient(voxels, affine, str(scan.path))
    label = read_label(scan.label, scan.path, source, settings) if scan.label else None
    fov, record["fov_origin"] = field_of_view_of(scan, source, settings.fov_radius_mm)
    record["fov"] = fov.to_item() if fov else None
    intensity = intensity_of(source, fov, settings.intensity)
    record["intensity"] = intensity.to_item()
    record["values"] = [float(intensity.apply(np.asarray(value))) for value in (voxels.min(), voxels.max())]
    record["histogram"] = hu_histogram(intensity.apply(voxels))
    grid = WorkingGrid(source.voxels.shape, source.affine, settings.spacing_mm)
    return _Found(source, label, fov, intensity, grid)


def _regions(scan: Scan, settings: PreparationSettings, record: Record, found: _Found) -> list[Region]:
    """What is to be stored of a scan: the surroundings of its joints, or all of it."""
    if settings.whole_volume:
        return [(None, ((0, 0, 0), found.grid.size))]
    joints = joints_of(scan, found.label, found.grid, found.fov)
    record["reasons"] += cut_off(joints, found.grid, found.fov, settings.roi_size)
    return [(joint, found.grid.box_around(joint.center_mm, settings.roi_size)) for joint in joints]


def _draw(path: Path, found: _Found, regions: Sequence[Region]) -> None:
    """Draw the scan with its joints and regions."""
    centers = [(joint.joint, joint.center_mm) for joint, _ in regions if joint]
    steps = found.grid.steps
    boxes = [(list(start * steps), list(stop * steps)) for joint, (start, stop) in regions if joint]
    write_thumbnail(path, found.intensity.apply(found.source.voxels), found.source.affine, centers, found.fov, boxes)


# --- storing ---


def _store(
    scan: Scan, directory: Path, record: Record, found: _Found, joint: JointCenter | None, box: Box
) -> dict[str, Any]:
    """Store one region, count its voxels in the record, and return its item of the datalist."""
    name = f"{scan.name}_{joint.joint}.nii" if joint else f"{scan.name}.nii"
    affine = found.grid.affine(box[0])
    image, clipped = _region(found, box)
    record["clipped"] += clipped
    record["outside_window"] += count_outside_window(image)
    record["stored_voxels"] += image.size
    item: dict[str, Any] = {"image": f"images/{name}"}
    write_stored_volume(directory / item["image"], image, affine)
    if found.label is not None:
        item["label"] = f"labels/{name}"
        write_stored_volume(directory / item["label"], found.grid.labels(found.label.voxels, box), affine)
    item["patient"] = scan.patient
    if joint is not None:
        item |= {"joint": joint.joint, "center_mm": [round(float(x), 4) for x in joint.center_mm]}
        item["center_origin"] = joint.origin
    if found.fov is not None:
        item["fov"] = found.fov.to_item()
    if "fold" in scan.extra:
        item["fold"] = scan.extra["fold"]
    return item | {"source": scan.scan, "size": list(image.shape), "sha256": hashlib.sha256(image.data).hexdigest()}


def _region(found: _Found, box: Box) -> tuple[npt.NDArray[np.int16], int]:
    """The voxels of a region in HU, and how many of them int16 could not hold."""
    image, clipped = np.empty(np.subtract(box[1], box[0]), dtype=np.int16), 0
    for slab, part in _slabs(box):
        image[slab], lost = to_int16(found.intensity.apply(found.grid.values(found.source.voxels, part)))
        clipped += lost
    return image, clipped


def _slabs(box: Box) -> Iterator[tuple[slice, Box]]:
    """Cut a box into slabs along i that are small beside the memory of a computer."""
    (first, *start), (last, *stop) = box
    thick = max(1, _SLAB_VOXELS // int(np.prod(np.subtract(stop, start))))
    for i in range(first, last, thick):
        end = min(i + thick, last)
        yield slice(i - first, end - first), ((i, *start), (end, *stop))  # type: ignore[misc]


# --- messages ---


@contextmanager
def _warnings_noted(reasons: list[str]) -> Iterator[None]:
    """Collect what the readers warn of, instead of showing it without the name of the scan."""
    package = logging.getLogger("bertswin_ext")
    collector, shown = _Collector(reasons), package.propagate
    package.addHandler(collector)
    package.propagate = False
    try:
        yield
    finally:
        package.propagate = shown
        package.removeHandler(collector)


class _Collector(logging.Handler):
    """Adds warnings to a list."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._reasons = reasons

    def emit(self, record: logging.LogRecord) -> None:
        """Add one."""
        self._reasons.append(record.getMessage())


def _said(error: Exception, scan: Scan) -> str:
    """An error in words."""
    if isinstance(error, MemoryError):
        return f"{scan.path}: does not fit into memory. Use fewer --workers, or more memory."
    if isinstance(error, ValueError):
        return str(error)
    logger.debug("%s", scan.path, exc_info=error)
    return f"{scan.path}: {type(error).__name__}: {error}"
