"""Raw scans of every kind on disk, made of phantoms, and the command that prepares them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import itk
import nibabel as nib
import numpy as np

from bertswin_ext.__main__ import main
from bertswin_ext.data.phantoms.phantom import Phantom, make_phantom
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.prepare import Prepared, prepare
from bertswin_ext.geometry import moved
from tests.unit.data.reading.dicom_files import write_series

SPACING_MM = 1.6
ROI = 24
SIZE = 36
SETTINGS = PreparationSettings(spacing_mm=SPACING_MM, roi_size=ROI)
FLAGS = ["--spacing_mm", str(SPACING_MM), "--roi_size", str(ROI), "--workers", "1"]


@cache
def phantom(seed: int = 0, side: str = "right", spacing_mm: float = SPACING_MM, size: int = SIZE) -> Phantom:
    return make_phantom(seed, size=size, spacing_mm=spacing_mm, side=side)


def hu_of(scan: Phantom) -> np.ndarray:
    return np.rint(scan.image).astype(np.int16)


# --- files ---


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def write_phantom(path: Path, scan: Phantom | None = None) -> Path:
    scan = scan or phantom()
    return write_nifti(path, hu_of(scan), scan.affine)


def write_itk(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """NRRD or MetaImage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:, 3])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


def write_dicom(folder: Path, scan: Phantom | None = None, **options) -> Path:
    """A series with the voxels of a phantom; see ``write_series``."""
    scan = scan or phantom()
    hu, to_index = hu_of(scan), np.linalg.inv(scan.affine)
    spacing = [float(scan.affine[axis, axis]) for axis in range(3)]
    first, last = scan.affine[:3, 3], moved(scan.affine, np.array(hu.shape) - 1)
    origins = [(-last[0], -last[1], first[2] + spacing[2] * k) for k in range(hu.shape[2])]

    def value(ras):
        return hu[tuple(np.moveaxis(np.rint(moved(to_index, ras)).astype(int), -1, 0))]

    return write_series(folder, origins, value, size=hu.shape[:2], spacing=(spacing[0], spacing[1]), **options)


def write_csv(path: Path, **scans: Phantom) -> Path:
    """Landmarks: the joint of each phantom, by the name of its scan."""
    lines = [
        f"{name},{scan.side},{','.join(f'{x:.4f}' for x in scan.joint_center_mm)}\n" for name, scan in scans.items()
    ]
    path.write_text("scan,joint,x,y,z\n" + "".join(lines))
    return path


def item_of(image: str, scan: Phantom | None = None, **entries) -> dict:
    """An item of a datalist."""
    scan = scan or phantom()
    return {"image": image, "joint": scan.side, "center_mm": [round(x, 4) for x in scan.joint_center_mm], **entries}


def write_list(path: Path, *training: dict, validation: list[dict] | None = None) -> Path:
    lists = {"training": list(training)} | ({"validation": validation} if validation else {})
    path.write_text(json.dumps(lists))
    return path


# --- the command and what it leaves ---


def run(
    source: Path,
    store: Path,
    settings: PreparationSettings = SETTINGS,
    landmarks: Path | None = None,
    labels: Path | None = None,
) -> Prepared:
    """Prepare in this process."""
    return prepare(source, store, settings, landmarks, labels, num_workers=1, progress=False)


def command(source: Path, store: Path, *flags: str) -> list[str]:
    return ["prepare", "--input", str(source), "--output", str(store), *FLAGS, *map(str, flags)]


def status_of(arguments: list[str]) -> int:
    """Run the command here; its exit status."""
    try:
        main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def datalist_of(store: Path) -> dict:
    return json.loads((store / "datalist.json").read_text(encoding="utf-8"))


def items_of(store: Path) -> list[dict]:
    return datalist_of(store)["training"]


def records_of(store: Path) -> dict[str, dict]:
    """Records by scan."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((store / "scans").glob("*.json"))]
    return {record["scan"]: record for record in records}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a store but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
