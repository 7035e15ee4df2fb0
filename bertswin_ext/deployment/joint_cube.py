"""The cube round a joint as a pre-trained network sees it, straight from the scan's own voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange
from monai.utils import convert_to_tensor
from torch import Tensor

from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.geometry import FieldOfView, Floats, moved, spacing_of
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.transforms.crop_plan import CropPlan
from bertswin_ext.transforms.fov import TokenValidity
from bertswin_ext.transforms.joint_place import is_left, joint_vox
from bertswin_ext.transforms.resample_crop import ResampleCrop
from bertswin_ext.transforms.volume_grid import VolumeGrid, grid_of

__all__ = ["CutJointCube", "JointCube"]


@dataclass(frozen=True, eq=False)
class JointCube:
    """What a network sees of a joint.

    Attributes:
        name: of the joint in a file's name: ``"left"``, ``"right"``, ``"joint"``, or ``"centre"`` of a scan.
        joint: the joint as it was given.
        center_mm: the cube's middle in the RAS world.
        image: standardized voxels.
        valid: tokens that lie in the scan and its field of view; what is outside is fill.
        plan: where the cube lies in the scan.
        patch_size: edge of a token in voxels.

    Shape:
        - image: (1, i, j, k)
        - valid: (n,) bool, n tokens in C order of their grid
    """

    name: str
    joint: ScanJoint
    center_mm: tuple[float, float, float]
    image: Tensor
    valid: Tensor
    plan: CropPlan
    patch_size: int

    @property
    def mirrored(self) -> bool:
        """Whether the cube is that of a left joint, with its i axis reversed."""
        return bool(self.plan.matrix[0, 0] < 0)

    @property
    def grid_size(self) -> tuple[int, int, int]:
        """Tokens along each axis."""
        i, j, k = (size // self.patch_size for size in self.plan.size)
        return i, j, k

    @property
    def token_centers_mm(self) -> Floats:
        """The tokens' middles in the RAS world, (n, 3)."""
        index = np.indices(self.grid_size).reshape(3, -1).T * self.patch_size + (self.patch_size - 1) / 2
        return moved(self.plan.crop_affine, index)


class CutJointCube:
    """Cut the cube of a network's size and voxels round a joint, and standardize it as in pre-training.

    The cube lies along the scan's axes with the joint exactly in its middle, so that a token is the same place in every
    scan, also at a scan's edge: the tokens outside are told by ``valid``. Left joints are mirrored. Only the voxels
    that the cube needs are touched, by one interpolation.

    Args:
        network: for the size of its cube and its tokens.
        record: the voxels and the HU scale that it learnt with.

    Source: arXiv 2512.21769, section 4. In pre-training a cube is moved into the volume, and lies on its voxels.

    Example:
        >>> import torch
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> network = bertswin_tiny()
        >>> cut = CutJointCube(network, AdaptationRecord.of(network, spacing_mm=1.0))
        >>> cube = cut(MetaTensor(torch.zeros(1, 60, 60, 60)), ScanJoint("right", (20.5, 29.5, 29.5)))
        >>> tuple(cube.image.shape), cube.token_centers_mm.mean(axis=0).round(6).tolist()
        ((1, 48, 48, 48), [20.5, 29.5, 29.5])
    """

    def __init__(self, network: BertsWinMAE, record: AdaptationRecord) -> None:
        self.size = network.img_size
        self.patch_size = network.patch_size
        self.spacing_mm = np.array(record.spacing_mm)
        self.validity = TokenValidity(self.patch_size)
        self.resample = ResampleCrop(track_meta=False)
        lowest, highest = ((hu - record.mean_hu) / record.std_hu for hu in (record.min_hu, record.max_hu))
        self.standardize = ScaleIntensityRange(record.min_hu, record.max_hu, lowest, highest, clip=True)

    def __call__(
        self, scan: MetaTensor, joint: ScanJoint, fov: FieldOfView | Mapping[str, Any] | None = None
    ) -> JointCube:
        """The cube.

        Args:
            scan: (1, i, j, k) in HU, its axes closest to RAS.
            joint: which one; None in place of its centre is the scan's middle.
            fov: the scanner's field of view, or a datalist's entry of it.

        Raises:
            ValueError: the joint is neither left nor right, or outside the scan, or its field of view.
        """
        grid = grid_of(scan)
        name = "centre" if joint.center_mm is None else joint.name
        center_mm = joint.center_mm or _middle_mm(grid)
        plan = self._plan(grid, joint_vox(center_mm, grid), is_left(joint.joint, grid))
        start, stop = plan.box
        box = scan.as_tensor()[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]
        image = convert_to_tensor(self.standardize(self.resample(box, plan)), track_meta=False)
        return JointCube(name, joint, center_mm, image, self.validity(plan, fov, image.device), plan, self.patch_size)

    def _plan(self, grid: VolumeGrid, center_vox: Floats, mirror: bool) -> CropPlan:
        """Where the cube lies."""
        steps = self.spacing_mm / spacing_of(grid.affine) * np.array([-1.0 if mirror else 1.0, 1.0, 1.0])
        matrix = np.diag([*steps, 1.0])
        matrix[:3, 3] = center_vox - steps * (np.array(self.size) - 1) / 2
        return CropPlan(matrix, self.size, grid.shape, grid.affine, grid.file)


def _middle_mm(grid: VolumeGrid) -> tuple[float, float, float]:
    """The middle of a scan in the world."""
    x, y, z = moved(grid.affine, (np.array(grid.shape) - 1) / 2).tolist()
    return x, y, z
