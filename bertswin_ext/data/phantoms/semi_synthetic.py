"""Semi-synthetic cone-beam CT: the label map of a real jaw, its tissues filled with Hounsfield units, and a scanner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bertswin_ext.data.phantoms.head_tissue import fill_with_tissue
from bertswin_ext.data.phantoms.jaw_map import DENTAL_SEGMENTATOR, JawMap, Tissues, read_jaw_map
from bertswin_ext.data.phantoms.nifti_files import write_scan
from bertswin_ext.data.phantoms.phantom import check_not_negative
from bertswin_ext.data.phantoms.phantom_scanner import (
    FOV_RADIUS_MM,
    Scanner,
    Shape,
    draw_grain,
    draw_scanner,
    scan_volume,
)
from bertswin_ext.data.phantoms.variation import NO_VARIATION, Variation, blurred, deformed, regridded, thinned
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.data.reading.volume_search import volume_stem
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import FieldOfView, Floats, moved

__all__ = ["SemiSynthetic", "make_semi_synthetic", "write_semi_synthetic"]


@dataclass(frozen=True)
class SemiSynthetic:
    """A real jaw as a scanner might have seen it.

    Attributes:
        image: Hounsfield units, float32 (i, j, k).
        label: uint8 (i, j, k): 0 background, 1 mandible, 2 skull; 0 outside the field of view.
        affine: voxel to RAS world in mm, (4, 4).
        fov_center_mm: RAS world position on the vertical axis of the field of view, the middle of the map.
        fov_radius_mm: radius of the field of view.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    affine: Floats
    fov_center_mm: tuple[float, float, float]
    fov_radius_mm: float


def make_semi_synthetic(
    label: npt.ArrayLike,
    affine: npt.ArrayLike,
    tissues: Tissues = DENTAL_SEGMENTATOR,
    seed: int = 0,
    fov_radius_mm: float | None = None,
    noise: bool = True,
    artefacts: bool = True,
    variation: Variation = NO_VARIATION,
) -> SemiSynthetic:
    """Turn a label map without an image into a cone-beam CT.

    Bone gets a cortex over textured trabeculae, teeth their enamel, the nerve canal soft tissue. Closed hollows that
    the map leaves out become marrow in the mandible and air cells in the skull. Around it are muscles and fat within
    the convex outline of the bones and a neck; nose, throat and open sinuses hold soft tissue too.

    Args:
        label: whole numbers (i, j, k), at least 16 voxels per axis; 0 is background.
        affine: voxel to RAS world in mm, (4, 4). The scanner's axis is the world's third axis.
        tissues: for every other value of the map, our class (1 mandible, 2 skull) and the kind of tissue: ``"bone"``,
            ``"tooth"`` or ``"nerve canal"``.
        seed: not negative; the same arguments give the same image.
        fov_radius_mm: None for 88 mm, or 96 % of half the smaller horizontal extent if that is less.
        noise: add correlated noise that grows with the signal.
        artefacts: add cupping, and in a third of the seeds streaks of metal in a tooth.
        variation: how far shape, density, sharpness and noise depend on the seed; by default the shape is the map's.

    Returns:
        Image and label on the grid of the map, or in the voxels that ``variation`` asks for. Outside the field of view
        are -1000 HU and no label.

    Raises:
        TypeError: ``seed`` is no int.
        ValueError: an argument is out of range, the map has a value without tissue, or no bone; the message says which.

    Source: field of view and noise after arXiv 2512.21769, see ``Scanner``; the tissue is ours.

    Example:
        >>> label = np.zeros((24, 24, 24), np.uint8)
        >>> label[8:16, 8:16, 8:16] = 2
        >>> jaw = make_semi_synthetic(label, np.eye(4), noise=False, artefacts=False)
        >>> bool(jaw.image[8, 12, 12] > 700), int(jaw.label[12, 12, 12]), jaw.fov_radius_mm
        (True, 1, 11.52)
    """
    check_not_negative("seed", seed)
    for_tissue, for_scanner, for_noise, for_variation = (np.random.default_rng((seed, stream)) for stream in range(4))
    jaw = regridded(read_jaw_map(label, affine, tissues), variation.spacing_mm)
    jaw = deformed(jaw, variation.deform_mm, for_variation)
    fov = _field_of_view(jaw, fov_radius_mm)
    scanner = _scanner(for_scanner, jaw, fov, variation.noise_hu)
    thinnest, densest = variation.density
    hu = thinned(fill_with_tissue(jaw, for_tissue), for_variation.uniform(thinnest, densest))
    hu = blurred(hu, jaw.spacing, for_variation.uniform(0.0, variation.blur_mm))
    grain = draw_grain(for_noise, cast(Shape, jaw.label.shape), scanner) if noise else None
    image, seen = scan_volume(hu, jaw.affine, scanner, grain, artefacts)
    return SemiSynthetic(image.numpy(), jaw.label * seen.numpy(), jaw.affine, fov.center_mm, fov.radius_mm)


def write_semi_synthetic(
    label_file: str | Path,
    directory: str | Path,
    count: int = 1,
    seed: int = 0,
    tissues: Tissues = DENTAL_SEGMENTATOR,
    variation: Variation = NO_VARIATION,
) -> Path:
    """Write semi-synthetic scans of one label map, with their datalist.

    ``directory`` receives ``images/<name>_0.nii.gz`` (int16 HU), ``labels/<name>_0.nii.gz`` (uint8), ... and, last,
    ``datalist.json``. All scans are of one patient, so that a split keeps them together.

    Args:
        label_file: the label map, of any kind that ``VolumeReader`` reads.
        directory: must not exist, or be empty.
        count: scans to write, at least 1; they differ in tissue, scanner and noise.
        seed: of the whole set.
        tissues: what the map's values are, see ``make_semi_synthetic``; those of DentalSegmentator by default.
        variation: how far shape, density, sharpness and noise may differ, see ``make_semi_synthetic``.

    Returns:
        Path of ``datalist.json``.

    Raises:
        TypeError: ``count`` or ``seed`` is no int.
        ValueError: an argument is out of range, the directory is not empty, or the map is refused.
        VolumeError: the file cannot be read.

    Example:
        >>> write_semi_synthetic("jaw_labels.nii.gz", "scans", count=2)  # doctest: +SKIP
    """
    check_not_negative("seed", seed)
    target, source = Path(directory), Path(label_file)
    _check_output(count, target)
    label, meta = VolumeReader().get_data([str(source)])
    name, training = volume_stem(source), []
    for n in tqdm(range(count), desc="scans", unit="volume", disable=None):
        one = int(np.random.SeedSequence((seed, n)).generate_state(1)[0])
        try:
            scan = make_semi_synthetic(label, meta["affine"], tissues, one, variation=variation)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        files = write_scan(target, f"{name}_{n}", scan.image, scan.label, scan.affine)
        fov = FieldOfView(scan.fov_center_mm, scan.fov_radius_mm).to_item()
        training.append({**files, "patient": name, "fov": fov})
    with written_whole(target / "datalist.json") as temporary:
        temporary.write_text(json.dumps({"training": training}, indent=2) + "\n", encoding="utf-8")
    return target / "datalist.json"


def _check_output(count: int, target: Path) -> None:
    """Refuse to write nothing, or among other files."""
    check_not_negative("count", count)
    if count == 0:
        raise ValueError("`count` must be at least 1, got 0. Use 1, say.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`directory` must be new or empty, got {target} with content. Choose another directory.")


def _field_of_view(jaw: JawMap, radius_mm: float | None) -> FieldOfView:
    """An upright cylinder about the middle of the map, whose corners it leaves out."""
    extent = np.abs(jaw.affine[:2, :3]) @ np.array(jaw.label.shape, dtype=np.float64)
    radius = min(FOV_RADIUS_MM, round(0.48 * float(extent.min()), 3)) if radius_mm is None else radius_mm
    x, y, z = moved(jaw.affine, (np.array(jaw.label.shape) - 1) / 2).tolist()
    return FieldOfView((x, y, z), radius)


def _scanner(rng: np.random.Generator, jaw: JawMap, fov: FieldOfView, noise_hu: Sequence[float]) -> Scanner:
    """Draw a scanner; metal is in a tooth."""
    teeth = np.flatnonzero(jaw.tooth)

    def in_a_tooth(rng: np.random.Generator) -> Floats:
        voxel = np.unravel_index(teeth[rng.integers(len(teeth))], jaw.label.shape) if len(teeth) else np.zeros(3)
        return moved(jaw.affine, np.array(voxel))

    scanner = draw_scanner(rng, in_a_tooth, fov.center_mm[:2], fov.radius_mm, noise_hu)
    return scanner if len(teeth) else replace(scanner, streak_hu=0.0)
