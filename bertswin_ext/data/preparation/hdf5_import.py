"""HDF5 files in the layout of the BertsWin authors, made into a store."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

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
    joint_faults,
    load_h5py,
    numbers_of,
    open_hdf5,
    unique_name,
)
from bertswin_ext.data.preparation.store import Store
from bertswin_ext.geometry import FieldOfView, Floats, moved
from bertswin_ext.stored_volume import write_stored_volume
from bertswin_ext.voxels import VOXELS

__all__ = ["Hdf5Import", "import_hdf5", "import_store"]

_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)  # what damage makes h5py raise
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_LARGEST_LABEL = 2
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16


@dataclass(frozen=True)
class Hdf5Import:
    """What came of an HDF5 file.

    Attributes:
        items: entries of a datalist, one for each joint that was written.
        faults: what was not written, each with its place in the file and the reason.
        notices: what was written on an assumption.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def import_hdf5(
    path: str | Path,
    directory: str | Path,
    axes: str = "LPS",
    spacing_mm: float = VOXELS.spacing_mm,
    progress: bool = False,
    *,
    fov_radius_mm: float = FOV_RADIUS_MM,
) -> Hdf5Import:
    """Write the joints of an HDF5 file as stored volumes, one after another.

    A joint with a fault is left out and reported; the others are written. The world's origin is the middle of the scan,
    through which the field of view's axis runs, so that the joints of one study lie in one world. Positions in the
    file are taken as in the authors' code: a voxel's index is that of its centre, and the middle is half the shape.

    Args:
        path: the file: groups ``<study>/<left_joint|right_joint>`` with ``roi_image`` and ``segmentation_mask``.
        directory: receives ``images/<file>_<study>_<side>.nii`` and ``labels/...``, in place of any of the same name.
        axes: where x, y and z of the (z, y, x) arrays run to. The file does not say; ``LPS`` is our assumption, what a
            DICOM scan has when it is read slice by slice from the feet up. A wrong letter mirrors every joint.
        spacing_mm: edge of a voxel.
        progress: show a bar.
        fov_radius_mm: radius of the field of view.

    Returns:
        The items, without folds, their paths relative to ``directory``; ``sha256`` is of the stored image's voxels.

    Raises:
        ImportError: h5py is not installed.
        ValueError: an argument is wrong, or the file is not HDF5 or is cut off.

    Source: arXiv 2512.21769, section 4, and the authors' training code: voxels of 0.2 mm, the scan's middle at half the
        region's shape less ``roi_offset_from_center``, a field of view of 440 voxels about it. They only log the joints
        that they leave out.

    Example:
        >>> import_hdf5("tmj.h5", "store").faults  # doctest: +SKIP
    """
    layout = Hdf5Layout(axes, spacing_mm, fov_radius_mm)
    with open_hdf5(path) as file:
        return _Importer(file, Path(path).name, Path(directory), layout).run(progress)


def import_store(
    path: str | Path,
    output: str | Path,
    axes: str = "LPS",
    spacing_mm: float = VOXELS.spacing_mm,
    progress: bool = False,
    *,
    fov_radius_mm: float = FOV_RADIUS_MM,
) -> tuple[Path, Hdf5Import]:
    """Make a store of an HDF5 file: its joints as `import_hdf5` writes them, and a datalist for training.

    A store holds one file. The same file can be imported again, after an interruption or with other axes: its volumes
    are replaced, and the datalist is empty until they are.

    Args:
        path: the file.
        output: the store; new, empty, or of an earlier import of this file.
        axes: see `import_hdf5`.
        spacing_mm: edge of a voxel.
        progress: show a bar.
        fov_radius_mm: radius of the field of view.

    Returns:
        Path of ``datalist.json``, and what came of the file. All items are for training: the file knows no split.

    Raises:
        ImportError: h5py is not installed.
        ValueError: an argument is wrong, the file cannot be read, or ``output`` holds something else, such as another
            file of the same name; nothing is written.

    Example:
        >>> datalist, found = import_store("tmj.h5", "store")  # doctest: +SKIP
    """
    layout, store = Hdf5Layout(axes, spacing_mm, fov_radius_mm), Store(output)
    with open_hdf5(path) as file, store.locked():
        identity = {"source": Path(path).name, "source_sample_sha256": _sample_sha256(Path(path))}
        _check_store(store, identity)
        settings = {"spacing_mm": spacing_mm, "axes": axes, "fov_radius_mm": fov_radius_mm, **identity}
        # an empty list first: it claims the folder, and names no volume that is about to change
        store.write_datalist([], settings)
        found = _Importer(file, Path(path).name, store.directory, layout).run(progress)
        return store.write_datalist([{"section": "training", "items": found.items}], settings), found


# --- whose store it is ---


def _sample_sha256(path: Path) -> str:
    """Hash of some of a file's bytes from its beginning to its end; all would take minutes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(_SAMPLE_BYTES, size // _SAMPLES)):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _check_store(store: Store, identity: dict[str, str]) -> None:
    """Refuse a store that something else was written to."""
    datalist = store.directory / "datalist.json"
    if not datalist.is_file() and not store.names():
        return
    prepared = json.loads(datalist.read_text(encoding="utf-8"))["prepared"] if datalist.is_file() else {}
    if {key: prepared.get(key) for key in identity} == identity:
        return
    if "source" not in prepared:
        content = "scans that `prepare` has stored"
    elif prepared["source"] != identity["source"]:
        content = f"the import of another file, {prepared['source']}"
    else:
        content = f"the import of another file, a {prepared['source']} with other content"
    raise ValueError(f"`output` {store.directory} holds {content}. Give a new or empty folder.")


# --- from the file to the store ---


@dataclass(frozen=True)
class _Joint:
    """A joint of the file, in its own axes."""

    image: npt.NDArray[Any]
    mask: npt.NDArray[Any] | None
    center: Floats
    offset: Floats
    background: float


class _Importer:
    """Writes the joints of an open file."""

    def __init__(self, file: Any, name: str, directory: Path, layout: Hdf5Layout) -> None:
        self.file, self.name, self.directory, self.layout = file, name, directory, layout
        self.result, self.taken = Hdf5Import(), set[str]()

    def run(self, progress: bool) -> Hdf5Import:
        """Write all of them."""
        for study in tqdm(list(self.file), desc=self.name, unit="study", disable=not progress):
            place = f"{self.name}:/{_text(study)}"
            for name, patient in self._joints(study, place):
                joint = _read_joint(self.file, study, name)
                if isinstance(joint, list):
                    self.result.faults.extend(f"{place}/{name}: {fault}" for fault in joint)
                    continue
                entry = {"patient": patient, "joint": JOINTS[name], "source": f"{place}/{name}"}
                stem = f"{Path(self.name).stem}_{_text(study)}_{JOINTS[name]}"
                self.result.items.append(self._stored(joint, stem) | entry)
        return self.result

    def _joints(self, study: str, place: str) -> Iterator[tuple[str, str]]:
        """Names in a study, each with its patient; what is wrong with the study is noted."""
        try:
            names, patient = _read_study(self.file, study)
        except _UNREADABLE as error:
            self.result.faults.append(f"{place}: must be a study with left_joint or right_joint ({error}).")
            return
        if not patient:
            self.result.notices.append(f"{place}: has no {PATIENT}; the study's name is taken for it.")
        for name in names:
            yield name, patient or _text(study)

    def _stored(self, joint: _Joint, stem: str) -> dict[str, Any]:
        """Write a joint's volumes; what its item says about them."""
        name = unique_name(_ODD.sub("-", stem).lstrip("."), self.taken)
        image = self.layout.array_of_file(joint.image)
        affine, to_ours = _world(joint, self.layout)
        item: dict[str, Any] = {"image": f"images/{name}.nii"}
        write_stored_volume(self.directory / item["image"], image, affine)
        if joint.mask is not None:
            item["label"] = f"labels/{name}.nii"
            write_stored_volume(self.directory / item["label"], self.layout.array_of_file(joint.mask), affine)
        return item | {
            "center_mm": np.round(moved(affine @ to_ours, joint.center), 6).tolist(),
            "fov": FieldOfView((0.0, 0.0, 0.0), self.layout.fov_radius_mm).to_item(),
            "background_hu": joint.background,
            "sha256": hashlib.sha256(image.data).hexdigest(),
        }


def _world(joint: _Joint, layout: Hdf5Layout) -> tuple[Floats, Floats]:
    """Voxel (i, j, k) to world, its origin the scan's middle; and the file's index to (i, j, k)."""
    to_ours = layout.index_of_file(joint.image.shape[::-1])
    affine = np.diag([layout.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -layout.spacing_mm * moved(to_ours, np.array(joint.image.shape) / 2 - joint.offset)
    return affine, to_ours


def _read_study(file: Any, name: str) -> tuple[list[str], str]:
    """What a study holds, and its patient, empty if it does not say; an error if it is none."""
    study = file.get(name)
    if not isinstance(study, load_h5py().Group) or not len(study):
        raise ValueError("it is not a group, or an empty one")
    values = np.asarray(study.attrs.get(PATIENT, "")).reshape(-1).tolist()
    return list(study), _text(values[0]).strip() if len(values) == 1 else ""


def _text(name: object) -> str:
    """A name as Unicode, whatever bytes it is of."""
    return (name if isinstance(name, bytes) else str(name).encode(errors="replace")).decode(errors="replace")


def _read_joint(file: Any, study: str, name: str) -> _Joint | list[str]:
    """A joint with its voxels, or what is wrong with it."""
    try:
        group = file[study].get(name) if name in JOINTS else None
        return joint_faults(group) or _loaded(group)
    except _UNREADABLE as error:
        return [f"cannot be read ({error})."]


def _loaded(group: Any) -> _Joint | list[str]:
    """A joint of the right layout, or what is wrong with its voxels."""
    mask = group[MASK][()] if MASK in group else None
    if mask is not None and mask.max() > _LARGEST_LABEL:
        return [f"{MASK} must hold 0 background, 1 mandible and 2 skull, found {mask.max()}."]
    image = group[IMAGE][()].astype(np.int16, copy=False)
    return _Joint(
        image, mask, numbers_of(group, CENTER), numbers_of(group, OFFSET), numbers_of(group, BACKGROUND).item()
    )
