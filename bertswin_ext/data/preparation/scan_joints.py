"""Where a scan's joints and its field of view are, refused where they contradict the scan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bertswin_ext.data.preparation.condyles import find_condyles
from bertswin_ext.data.preparation.fov_estimate import estimate_field_of_view
from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.data.preparation.scan_reading import MANDIBLE
from bertswin_ext.data.preparation.scans import Scan
from bertswin_ext.data.preparation.working_grid import OrientedScan, WorkingGrid
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import FieldOfView, is_inside, moved

__all__ = ["cut_off", "field_of_view_of", "joints_of"]

_CORE_SHARE, _CROP_VOX = 140 / 224, 224


def field_of_view_of(
    scan: Scan, source: OrientedScan, radius_mm: float | None = None
) -> tuple[FieldOfView | None, str]:
    """The cylinder that the scanner saw.

    Args:
        scan: whose datalist may say it.
        source: its voxels, from which it is estimated if nothing else is known.
        radius_mm: radius of the scanner's cylinder, which then stands round the middle of the scan.

    Returns:
        The field of view, or None if it is not known, and how it is known, in words.
    """
    if "fov" in scan.extra:
        return FieldOfView.of_item(scan.extra["fov"]), "datalist"
    if radius_mm is not None:
        x, y, z = moved(source.affine, (np.array(source.voxels.shape) - 1) / 2).tolist()
        return FieldOfView((x, y, z), radius_mm, tuple(source.affine[:3, 2].tolist())), "given radius"
    found = estimate_field_of_view(source.voxels, source.affine)
    return found, "estimated from the fill value" if found else "none found: the whole scan is taken as seen"


def joints_of(
    scan: Scan, label: OrientedScan | None, grid: WorkingGrid, fov: FieldOfView | None
) -> tuple[JointCenter, ...]:
    """The joints of a scan: those that the input gives, else the condyles of its label map.

    Args:
        scan: the scan.
        label: its label map in the classes of the store.
        grid: its voxels.
        fov: what the scanner saw.

    Returns:
        One or two centres, the right one first.

    Raises:
        VolumeError: a centre is not known, given twice, outside the scan, or outside the field of view.
    """
    joints = (*scan.joints, *_on_label(scan, label))
    sides = [joint.joint for joint in joints]
    lacking = [side for side in scan.sides if side not in sides]
    if lacking or not joints:
        what = f"its {' and its '.join(lacking)} joint" if lacking else "a joint"
        raise VolumeError(
            f"{scan.path}: where {what} lies is not known. Give --landmarks or --labels, a datalist with `joint` and "
            "`center_mm`, or --whole_volume for crops from anywhere."
        )
    if len(set(sides)) < len(sides):
        raise VolumeError(
            f"{scan.path}: has several centres for the same joint ({', '.join(sides)}). Keep one of them."
        )
    for joint in joints:
        _check_inside(scan, joint, grid, fov)
    return tuple(sorted(joints, key=lambda joint: joint.joint, reverse=True))


def cut_off(joints: Sequence[JointCenter], grid: WorkingGrid, fov: FieldOfView | None, roi_size: int) -> Iterator[str]:
    """Say where scan or field of view end so close to a joint that its crops show what lies beyond.

    Args:
        joints: the joints.
        grid: voxels of the scan.
        fov: what the scanner saw.
        roi_size: edge of a region in working voxels.

    Source: every crop of 224 voxels shows the 140 round the joint, arXiv 2512.21769, section 4.
    """
    core_mm = _CORE_SHARE * min(roi_size, _CROP_VOX) / 2 * grid.spacing_mm
    for joint in joints:
        index = grid.index_of(joint.center_mm)
        rooms = {"scan": float(np.minimum(index + 0.5, np.array(grid.size) - 0.5 - index).min()) * grid.spacing_mm}
        if fov is not None:
            rooms["field of view"] = fov.radius_mm - float(fov.distances_mm(joint.center_mm))
        for what, room_mm in rooms.items():
            if room_mm < core_mm:
                yield f"The {what} ends {room_mm:.1f} mm beside the {joint.joint} joint; crops will show its outside."


def _on_label(scan: Scan, label: OrientedScan | None) -> list[JointCenter]:
    """The condyles of a label map, as far as the input does not say where the joints are."""
    sides = [side for side in scan.sides if side not in [joint.joint for joint in scan.joints]]
    if label is None or scan.label is None or (scan.joints and not sides):
        return []
    joint = sides[0] if len(sides) == 1 else None
    return find_condyles(label.voxels, label.affine, MANDIBLE, joint, f"label map {scan.label.name}")


def _check_inside(scan: Scan, joint: JointCenter, grid: WorkingGrid, fov: FieldOfView | None) -> None:
    """Raise if a joint is not in the scan, or not in what the scanner saw."""
    index = grid.index_of(joint.center_mm)
    where = f"{scan.path}: the {joint.joint} joint ({joint.origin}) at {_point(joint.center_mm)}"
    if not is_inside(index, grid.size):
        corners = [moved(grid.affine(), corner) for corner in ((0, 0, 0), np.array(grid.size) - 1)]
        raise VolumeError(
            f"{where} lies outside the scan, which reaches from {_point(corners[0])} to {_point(corners[1])}. Are the "
            "coordinates LPS, or of another scan?"
        )
    if fov is not None and not bool(fov.contains(joint.center_mm)):
        raise VolumeError(
            f"{where} lies outside the field of view, {float(fov.distances_mm(joint.center_mm)):.0f} mm from its axis "
            f"with a radius of {fov.radius_mm:.0f} mm. Correct the centre or the field of view."
        )


def _point(position_mm: Iterable[float]) -> str:
    """A position in words."""
    return f"RAS ({', '.join(f'{x:.1f}' for x in position_mm)}) mm"
