"""Segment the joints of a whole scan, each at the network's voxels, into one label map on the scan's own voxels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Activationsd, Compose, Crop, Invertd
from torch import Tensor

from bertswin_ext.deployment.joint_search import JointSearch, JointsOfScan
from bertswin_ext.deployment.scan_joints import ScanJoint, noted_joints
from bertswin_ext.deployment.stages import counted
from bertswin_ext.geometry import Floats, spacing_of
from bertswin_ext.transforms.clean_labels import KeepLargestParts
from bertswin_ext.transforms.joint_region import JointRegiond
from bertswin_ext.transforms.mirror_left import MirrorLeftd
from bertswin_ext.transforms.most_likely import MostLikelyClass
from bertswin_ext.transforms.resampled import Resampled
from bertswin_ext.transforms.standardize import StandardizeHUd
from bertswin_ext.transforms.volume_grid import grid_of
from bertswin_ext.voxels import VOXELS

__all__ = ["JointsInferer", "SegmentedScan"]

logger = logging.getLogger(__name__)

Network = Callable[[Tensor], Tensor]


@dataclass
class SegmentedScan:
    """What became of a scan.

    Attributes:
        label: uint8 (1, 1, i, j, k) on the scan's voxels, 0 outside the boxes round the joints.
        joints: the joints that were segmented.
        boxes_mm: edges of the box round each, which ends where the scan does.
        seconds: what was spent on each stage.
        warnings: what the user should know about the joints.
    """

    label: MetaTensor
    joints: list[ScanJoint] = field(default_factory=list)
    boxes_mm: list[tuple[float, float, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class JointsInferer(Inferer):  # type: ignore[misc]
    """Find the joints of a scan, segment the box round each, and put the labels into one map.

    A box is resampled to the network's voxels, a left one mirrored, and the network applied window by window;
    probabilities, not ids, are brought back to the scan's voxels. Only boxes are ever resampled, so memory grows with
    the box, not with the scan: of a scan it takes the label map, one byte a voxel.

    Where boxes overlap a voxel is that of the nearer joint.

    Args:
        inferer: applies the network to a box of any size, see `bertswin_ext.inferers.sliding_window`.
        spacing_mm: the network's voxels, one number or three.
        search: tells the joints; None takes those that are named, and segments a scan without any whole.
        region_mm: edges of the box round a joint, one number or three.
        keep_largest: remove all but the largest part of the mandible in each box.
        device: where boxes are resampled and go through the network; the scan's device when None.
        amp: bfloat16 autocast, round the network alone: in bfloat16 a resampling grid would be off by a third of a mm.

    Shape:
        The scan is a `MetaTensor` (1, 1, i, j, k) in HU with axes along RAS; the result is uint8 of the same shape.

    Raises:
        ValueError: when called, the scan is not one volume, or no joint was found.
    """

    def __init__(
        self,
        inferer: Inferer,
        spacing_mm: float | Sequence[float] = VOXELS.spacing_mm,
        search: JointSearch | None = None,
        region_mm: float | Sequence[float] = 80.0,
        keep_largest: bool = False,
        device: torch.device | str | None = None,
        amp: bool = False,
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.search = search
        self.device = None if device is None else torch.device(device)
        self.amp = amp
        self.region = JointRegiond("image", region_mm)
        self.cropper = Crop()
        spacing = [spacing_mm] * 3 if isinstance(spacing_mm, int | float) else list(spacing_mm)
        self.to_network = Compose(
            [
                Resampled("image", spacing, mode="bilinear", dtype=np.float32),
                MirrorLeftd("image"),
                StandardizeHUd("image"),
            ]
        )
        self.clean = KeepLargestParts() if keep_largest else None

    def __call__(self, inputs: Tensor, network: Network, *_: Any, **__: Any) -> MetaTensor:
        """Segment a scan.

        Args:
            inputs: the scan.
            network: logits (b, classes, i, j, k) of standardized windows.

        Returns:
            The label map.
        """
        result = self.segment(inputs, network)
        for warning in result.warnings:
            logger.warning("%s", warning)
        return result.label

    def segment(self, scan: Tensor, network: Network) -> SegmentedScan:
        """Segment a scan and say how; arguments as in the call."""
        if not isinstance(scan, MetaTensor) or scan.ndim != 5 or scan.shape[:2] != (1, 1):
            raise ValueError(f"A scan must be a MetaTensor (1, 1, i, j, k), got {type(scan).__name__} {scan.shape}.")
        volume = scan[0]
        result = SegmentedScan(_empty_label(volume))
        with counted(result.seconds, "locate"):
            result.joints, result.warnings = self._joints(volume)
        parts = [self._segment_joint(volume, joint, network, result) for joint in result.joints]
        with counted(result.seconds, "invert"):
            whole = result.label.as_tensor()[0, 0]
            for joint, (label, box) in zip(result.joints, parts, strict=True):
                nearer = _nearer(joint, result.joints, box, grid_of(volume).affine)
                whole[box] = label if nearer is None else torch.where(nearer.to(whole.device), label, whole[box])
        return result

    def _joints(self, volume: MetaTensor) -> JointsOfScan:
        """The joints to segment; None of them means the whole scan as it is."""
        if self.search is None:
            return JointsOfScan(noted_joints(volume) or [ScanJoint(None, None)], [])
        return self.search(volume)

    def _segment_joint(
        self, volume: MetaTensor, joint: ScanJoint, network: Network, result: SegmentedScan
    ) -> tuple[Tensor, tuple[slice, ...]]:
        """The label (i, j, k) of the box round a joint, and the box."""
        box = self.region.box(grid_of(volume), joint.center_mm)
        result.boxes_mm.append(self._edges_mm(volume, joint))
        with counted(result.seconds, "resample"):
            item = self.to_network({"image": self._cut_out(volume, box), "joint": joint.joint})
        windows = item["image"].as_tensor()[None]
        autocast = torch.autocast(windows.device.type, torch.bfloat16, enabled=self.amp)
        with counted(result.seconds, "network"), torch.inference_mode(), autocast:
            item["pred"] = self.inferer(windows, network)[0].float()
        with counted(result.seconds, "invert"):
            label = MostLikelyClass()(self._on_scan(item))
            label = label if self.clean is None else self.clean(label)
        return label.as_subclass(Tensor)[0].to(volume.device), box

    def _edges_mm(self, volume: MetaTensor, joint: ScanJoint) -> tuple[float, float, float]:
        """Edges of the box round a joint, which ends where the scan does."""
        whole = np.array(volume.shape[1:]) * spacing_of(grid_of(volume).affine)
        i, j, k = (whole if joint.center_mm is None or self.region.size_mm is None else self.region.size_mm).tolist()
        return i, j, k

    def _cut_out(self, volume: MetaTensor, box: tuple[slice, ...]) -> MetaTensor:
        """A box of the scan where it is worked on, with no memory of what was done to the scan."""
        with self.cropper.trace_transform(False):
            crop = self.cropper(volume, box).to(self.device or volume.device, torch.float32)
        crop.applied_operations = []
        return crop

    def _on_scan(self, item: dict[str, Any]) -> MetaTensor:
        """Probabilities on the voxels of the scan."""
        back = Invertd(
            "pred", self.to_network, orig_keys="image", nearest_interp=False, to_tensor=True, device=item["pred"].device
        )
        return back(Activationsd("pred", softmax=True)(item))["pred"]


def _empty_label(volume: MetaTensor) -> MetaTensor:
    """A label map of nothing on a scan's voxels."""
    empty = torch.zeros((1, *volume.shape), dtype=torch.uint8, device=volume.device)
    return MetaTensor(empty).copy_meta_from(volume)


def _nearer(joint: ScanJoint, joints: Sequence[ScanJoint], box: tuple[slice, ...], affine: Floats) -> Tensor | None:
    """Which voxels of a box are nearer to its joint than to the others; None means all, as there are no others."""
    nearer = None
    for other in joints:
        if other is joint or joint.center_mm is None or other.center_mm is None:
            continue
        # on this side of the plane half way between the two, which is linear in the voxels' indices
        own, its = np.array(joint.center_mm), np.array(other.center_mm)
        slope = (its - own) @ affine[:3, :3]
        offset = (its - own) @ (affine[:3, 3] - (own + its) / 2)
        i, j, k = (torch.arange(part.start, part.stop) * float(step) for part, step in zip(box, slope, strict=True))
        side = i[:, None, None] + j[None, :, None] + k + float(offset) <= 0
        nearer = side if nearer is None else nearer & side
    return nearer
