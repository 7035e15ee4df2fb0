"""Label maps of jaws: which of their values is which tissue of which bone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from bertswin_ext.data.phantoms.distance_maps import Mask
from bertswin_ext.geometry import Floats, spacing_of

__all__ = ["DENTAL_SEGMENTATOR", "MANDIBLE", "SKULL", "JawMap", "Tissues", "read_jaw_map"]

MANDIBLE, SKULL = 1, 2
BONE, TOOTH, CANAL = KINDS = ("bone", "tooth", "nerve canal")

Tissues = Mapping[int, tuple[int, str]]

DENTAL_SEGMENTATOR: Tissues = MappingProxyType(
    {1: (SKULL, BONE), 2: (MANDIBLE, BONE), 3: (SKULL, TOOTH), 4: (MANDIBLE, TOOTH), 5: (MANDIBLE, CANAL)}
)
"""Label values of DentalSegmentator: maxilla and upper skull, mandible, upper teeth, lower teeth, mandibular canal."""

_SMALLEST_SIZE = 16


@dataclass(frozen=True)
class JawMap:
    """A label map in our classes, and where its kinds of tissue are.

    Attributes:
        label: uint8 (i, j, k): 0 background, 1 mandible, 2 skull, both with teeth and canal.
        tooth: where teeth are.
        canal: where nerve canals are.
        affine: voxel to RAS world in mm, (4, 4).
    """

    label: npt.NDArray[np.uint8]
    tooth: Mask
    canal: Mask
    affine: Floats

    @property
    def spacing(self) -> list[float]:
        """Edges of a voxel in mm along i, j, k."""
        return spacing_of(self.affine).tolist()


def read_jaw_map(label: npt.ArrayLike, affine: npt.ArrayLike, tissues: Tissues = DENTAL_SEGMENTATOR) -> JawMap:
    """Check a label map and translate it.

    Args:
        label: whole numbers (i, j, k), at least 16 voxels per axis; 0 is background.
        affine: voxel to RAS world in mm, (4, 4).
        tissues: for every other value of the map, our class (1 mandible, 2 skull) and the kind of tissue: ``"bone"``,
            ``"tooth"`` or ``"nerve canal"``.

    Raises:
        ValueError: shape or affine are none, the map has a value without tissue, or no bone; the message says which.

    Example:
        >>> label = np.zeros((16, 16, 16), np.uint8)
        >>> label[8:], label[8, 8] = 2, 4
        >>> jaw = read_jaw_map(label, np.eye(4))
        >>> np.bincount(jaw.label.ravel()).tolist(), int(jaw.tooth.sum())
        ([2048, 2048], 16)
    """
    values, matrix = np.asarray(label), np.asarray(affine, dtype=np.float64)
    _check_grid(values, matrix)
    _check_values(values, tissues)
    ours = np.zeros(values.shape, dtype=np.uint8)
    masks = {kind: np.zeros(values.shape, dtype=np.bool_) for kind in KINDS}
    for value, (bone, kind) in tissues.items():
        here = values == value
        ours[here] = bone
        masks[kind] |= here
    if not masks[BONE].any():
        raise ValueError("`label` must hold bone, got none. Check the map, and which values are bone in `tissues`.")
    return JawMap(ours, masks[TOOTH], masks[CANAL], matrix)


def _check_grid(label: npt.NDArray[Any], affine: Floats) -> None:
    """Refuse what is no volume in space."""
    if label.ndim != 3 or min(label.shape) < _SMALLEST_SIZE:
        raise ValueError(
            f"`label` must have 3 axes (i, j, k) of at least {_SMALLEST_SIZE} voxels, got shape {label.shape}. "
            "Remove channel axes, or take a larger map."
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"`affine` must be an invertible (4, 4) matrix, got {affine.tolist()}.")


def _check_values(label: npt.NDArray[Any], tissues: Tissues) -> None:
    """Refuse a map that is none of labels, and values without a tissue."""
    _check_tissues(tissues)
    found = np.unique(label)
    if label.dtype.kind not in "biuf" or not np.array_equal(found, np.rint(found)):
        raise ValueError(f"`label` must hold whole numbers, got {label.dtype} with fractions. Give a map of labels.")
    unknown = sorted(set(found.astype(int).tolist()) - {0} - set(tissues))
    if unknown:
        raise ValueError(
            f"`label` holds the value {unknown[0]}, for which `tissues` has no entry; it knows "
            f"{', '.join(map(str, sorted(tissues)))}. Add an entry, or set these voxels to 0."
        )


def _check_tissues(tissues: Tissues) -> None:
    """Refuse tissues that there are none of."""
    known = list(product((MANDIBLE, SKULL), KINDS))
    for value, tissue in tissues.items():
        if value == 0 or tuple(tissue) not in known:
            rule = f"1 (mandible) or 2 (skull) and one of {', '.join(KINDS)}"
            raise ValueError(f"`tissues` must give {rule} for values other than 0, got {value}: {tissue}.")
