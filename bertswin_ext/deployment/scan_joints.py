"""The joints of a scan that are known before it is looked at: what an item says, kept beside the voxels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from bertswin_ext.transforms.joint_place import is_left, joint_vox
from bertswin_ext.transforms.volume_grid import grid_of

__all__ = ["JOINTS_META", "NoteJointsd", "ScanJoint", "joints_of", "noted_joints"]

JOINTS_META = "joints"


class ScanJoint(NamedTuple):
    """A joint of a scan.

    Attributes:
        joint: ``"left"`` or ``"right"``; None where nobody said, then it is segmented as a right one.
        center_mm: its place in the RAS world; None means the whole scan.
        confidence: how sure the locator is, from 0 to 1; None where the place was given.
    """

    joint: str | None
    center_mm: tuple[float, float, float] | None
    confidence: float | None = None

    @property
    def name(self) -> str:
        """The joint in a file's name or a message."""
        return self.joint or ("joint" if self.center_mm is not None else "scan")


def joints_of(item: Mapping[Hashable, Any]) -> list[ScanJoint]:
    """Joints that an item names: its ``joints``, or itself if it has a ``center_mm``.

    Args:
        item: of a datalist, or a request of MONAI Label.

    Raises:
        ValueError: an entry of ``joints`` is not ``{"joint": ..., "center_mm": [x, y, z]}``.

    Example:
        >>> joints_of({"image": "head.nii.gz", "joint": "left", "center_mm": [-50, 0, 10]})
        [ScanJoint(joint='left', center_mm=(-50.0, 0.0, 10.0), confidence=None)]
    """
    if item.get("joints") is not None:
        return [_joint(entry) for entry in item["joints"]]
    return [_joint(item)] if item.get("center_mm") is not None else []


def noted_joints(scan: MetaTensor) -> list[ScanJoint]:
    """The joints that `NoteJointsd` kept with a scan."""
    return list(scan.meta.get(JOINTS_META) or [])


def _joint(entry: Any) -> ScanJoint:
    """One entry."""
    if not isinstance(entry, Mapping) or len(entry.get("center_mm", ())) != 3:
        raise ValueError(
            f'A joint must be {{"joint": "left" or "right", "center_mm": [x, y, z]}} (RAS, in mm), got {entry!r}.'
        )
    x, y, z = (float(number) for number in entry["center_mm"])
    return ScanJoint(entry.get("joint"), (x, y, z))


def _check_sides(joints: Sequence[ScanJoint]) -> None:
    """Raise if sides are exchanged, as they are where LPS is taken for RAS."""
    x = {joint.joint: joint.center_mm[0] for joint in joints if joint.joint and joint.center_mm}
    if {"left", "right"} <= x.keys() and x["left"] >= x["right"]:
        raise ValueError(
            f"The right joint (x = {x['right']:g}) must lie to the right of the left one (x = {x['left']:g}): in RAS, "
            "x grows towards the patient's right. Exchange them; or, if the points are LPS, as in DICOM, change the "
            "sign of x and y."
        )


class NoteJointsd(MapTransform):  # type: ignore[misc]
    """Keep the joints that an item names in the meta data of its volumes, where an inferer finds them.

    Args:
        keys: keys of the volumes, which are `MetaTensor`.

    Raises:
        ValueError: when called, a joint is neither left nor right, or outside the volume, or the right one lies on the
            left of the left one.

    Example:
        >>> import torch
        >>> scan = MetaTensor(torch.zeros(1, 8, 8, 8))
        >>> noted = NoteJointsd("image")({"image": scan, "joint": "right", "center_mm": [4, 4, 4]})
        >>> noted["image"].meta["joints"][0].joint
        'right'
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Note the joints of an item."""
        item = dict(data)
        joints = joints_of(item)
        _check_sides(joints)
        for key in self.key_iterator(item):
            grid = grid_of(item[key])
            for joint in joints:
                is_left(joint.joint, grid)
                if joint.center_mm is not None:
                    joint_vox(joint.center_mm, grid)
            item[key].meta[JOINTS_META] = joints
        return item
