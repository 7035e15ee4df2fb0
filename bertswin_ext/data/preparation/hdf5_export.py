"""Stored joints as an HDF5 file in the layout of the BertsWin authors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertswin_ext.data.preparation.hdf5_layout import (
    BACKGROUND,
    CENTER,
    FOV_RADIUS_MM,
    IMAGE,
    JOINTS,
    MASK,
    OFFSET,
    PATIENT,
    Hdf5Layout,
    center_faults,
    load_h5py,
    unique_name,
)
from bertswin_ext.errors import listed, times
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import FieldOfView, moved, spacing_of
from bertswin_ext.stored_volume import StoredVolume, open_stored_volume
from bertswin_ext.voxels import AIR_HU, VOXELS

__all__ = ["export_hdf5"]

_TILT = 1e-3  # sine of the angle between two parallel axes
_CHUNK_VOX = 64

Item = Mapping[str, Any]


def export_hdf5(
    items: Sequence[Item],
    directory: str | Path,
    path: str | Path,
    axes: str = "LPS",
    spacing_mm: float = VOXELS.spacing_mm,
    *,
    fov_radius_mm: float = FOV_RADIUS_MM,
    compressed: bool = False,
) -> None:
    """Write the joints of a datalist as one HDF5 file, whole or not at all.

    The layout has no world: its only point of reference is the middle of the scan, ``roi_offset_from_center`` away
    from that of the region. The field of view's ``center_mm`` is taken for it. Through `import_hdf5` voxels, joint
    centre, field of view and patient come back as they were, with that point as the world's origin and without the
    world's rotation. Joints of a patient with the same ``source`` share a study. An item without a label gets no
    ``segmentation_mask``, which the authors' code needs.

    Args:
        items: with ``image``, ``patient``, ``joint``, ``center_mm`` and ``fov``, perhaps ``label`` and
            ``background_hu`` (-1000 if missing), as `import_hdf5` gives them.
        directory: what the items' paths are relative to.
        path: the HDF5 file to write.
        axes: where x, y and z of the (z, y, x) arrays shall run to.
        spacing_mm: edge of a voxel; the layout does not hold it, so all items must have it.
        fov_radius_mm: radius of the field of view; the same holds.
        compressed: smaller but slower to read; off, for the authors' code reads a whole joint for every crop.

    Raises:
        ImportError: h5py is not installed.
        ValueError: an argument is wrong, or items do not fit the layout; all of them are listed, nothing is written.

    Example:
        >>> export_hdf5(import_hdf5("tmj.h5", "store").items, "store", "copy.h5")  # doctest: +SKIP
    """
    h5py, layout = load_h5py(), Hdf5Layout(axes, spacing_mm, fov_radius_mm)
    plans = _plans(items, Path(directory), layout)
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        for plan in plans:
            plan.write(file, layout, compressed)


@dataclass(frozen=True)
class _Plan:
    """A joint to write, its positions in the file's axes."""

    group: str
    patient: str
    volumes: dict[str, StoredVolume]
    attributes: dict[str, Any]

    def write(self, file: Any, layout: Hdf5Layout, compressed: bool) -> None:
        """Write group, attributes and volumes."""
        group = file.create_group(self.group)
        group.parent.attrs[PATIENT] = self.patient
        group.attrs.update(self.attributes)
        for name, volume in self.volumes.items():
            chunks = tuple(min(_CHUNK_VOX, size) for size in volume.shape[::-1])
            storage = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}
            group.create_dataset(name, data=layout.array_to_file(volume.read()), **(storage if compressed else {}))


def _plans(items: Sequence[Item], directory: Path, layout: Hdf5Layout) -> list[_Plan]:
    """A plan for every item, or one error about all that cannot have one."""
    plans: dict[str, _Plan] = {}
    faults = [] if items else ["there are none."]
    for n, (item, study) in enumerate(zip(items, _study_names(items), strict=True)):
        try:
            plan = _plan(item, study, directory, layout)
            if plans.setdefault(plan.group, plan) is not plan:
                raise ValueError("its patient and `source` have a joint on this side already.")
        except (TypeError, ValueError) as error:
            faults.append(f"items[{n}] ({item.get('image')}): {error}")
    if faults:
        raise ValueError(listed(faults, "the items to write as HDF5"))
    return list(plans.values())


def _study_names(items: Sequence[Item]) -> list[str]:
    """The study of every item: one for each patient and source, named after the patient."""
    keys = [(str(item.get("patient")), re.sub(r"/\w+_joint$", "", str(item.get("source")))) for item in items]
    taken: set[str] = set()
    names = {key: unique_name(re.sub(r"[/\0]|^\.*$", "_", key[0]), taken) for key in dict.fromkeys(keys)}
    return [names[key] for key in keys]


def _plan(item: Item, study: str, directory: Path, layout: Hdf5Layout) -> _Plan:
    """How to write an item; a ValueError if the layout has no place for it."""
    _check_entries(item)
    files = {IMAGE: item["image"], MASK: item.get("label")}
    volumes = {name: open_stored_volume(directory / file) for name, file in files.items() if file is not None}
    image, fov = volumes[IMAGE], FieldOfView.of_item(item["fov"])
    to_file = np.linalg.inv(image.affine @ layout.index_of_file(image.shape))
    shape, (center, scan_center) = image.shape[::-1], moved(to_file, [item["center_mm"], fov.center_mm])
    faults = _misfits(image, volumes.get(MASK, image), fov, layout) + center_faults(center, shape)
    if faults:
        raise ValueError(" ".join(faults))
    background, offset = float(item.get("background_hu", AIR_HU)), np.array(shape) / 2 - scan_center
    attributes = {CENTER: center, OFFSET: offset, BACKGROUND: background}
    return _Plan(f"{study}/{item['joint']}_joint", str(item["patient"]), volumes, attributes)


def _check_entries(item: Item) -> None:
    """Refuse an item that does not say enough."""
    lacking = [key for key in ("image", "patient", "joint", "center_mm", "fov") if item.get(key) is None]
    if lacking:
        raise ValueError(f"must have {', '.join(lacking)}.")
    if item["joint"] not in JOINTS.values() or np.shape(item["center_mm"]) != (3,):
        raise ValueError(f"must have a joint, left or right, at 3 numbers, got {item['joint']} {item['center_mm']}.")


def _misfits(image: StoredVolume, label: StoredVolume, fov: FieldOfView, layout: Hdf5Layout) -> list[str]:
    """Why the layout, which knows cubes of one size and upright cylinders of one radius, cannot hold a joint."""
    spacing, edges = spacing_of(image.affine), image.affine[:3, :3] / layout.spacing_mm
    are_cubes = np.allclose(edges.T @ edges, np.eye(3), atol=2e-4)
    tilt = np.linalg.norm(np.cross(image.affine[:3, 2] / spacing[2], fov.axis))
    same_grid = label.shape == image.shape and np.allclose(label.affine, image.affine, atol=1e-3)
    radii = (fov.radius_mm, layout.fov_radius_mm)
    rules = {
        f"the image must be int16, got {image.dtype}": image.dtype == "int16",
        f"the label must be uint8, got {label.dtype}": label is image or label.dtype == "uint8",
        "the label must be on the image's grid": same_grid,
        f"the voxels must be cubes of `spacing_mm` {layout.spacing_mm:g}, got {times(spacing)}": are_cubes,
        f"the field of view's axis must be the voxels' third, got {fov.axis}": tilt < _TILT,
        f"the field of view's radius must be `fov_radius_mm` {radii[1]:g}, got {radii[0]:g}": np.isclose(*radii, 1e-4),
    }
    return [fault + "." for fault, holds in rules.items() if not holds]
