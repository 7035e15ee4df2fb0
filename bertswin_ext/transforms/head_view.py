"""A random view of a coarse head: another pose, shape, field of view and scanner, and where its joints are in it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform
from torch import Tensor

from bertswin_ext.geometry import Floats, moved
from bertswin_ext.transforms.view_disturbance import disturbed, draw_disturbance
from bertswin_ext.transforms.view_field import draw_field, seen_depth
from bertswin_ext.transforms.volume_grid import grid_of
from bertswin_ext.voxels import AIR_HU

__all__ = ["RandHeadViewd"]

_SIDES = ("left", "right")  # the locator's channels
_EDGE_MM = 5.0  # a joint nearer to the edge of the view, or as little beyond it, is neither seen nor not
_LATTICE = 6


class RandHeadViewd(Randomizable, Transform):  # type: ignore[misc]
    """Look at a head as some scanner might, on the grid of the locator.

    The head is turned, stretched, sheared, mirrored (its sides change names) and bent, cut off by a box or a cylinder
    of any size about its joints or elsewhere, and its values are shifted, blurred and disturbed by noise.

    Args:
        size: voxels of the view per axis.
        spacing_mm: edge of a voxel of the view.
        rotate_range_deg: largest angle about each axis.
        scale_range: smallest and largest factor of the head's size, drawn anew for every axis within 12 % of a common
            one.
        shear: largest shift of one axis per length of another.
        bend_mm: deviation of the smooth displacement.

    Returns:
        ``image`` (1, size, size, size) in HU, and ``label`` (2, 4): for the left and the right joint its voxel, and 1
        if it is in the view, 0 if it is not, -1 if it is at the edge.

    Source: ours.

    Example:
        >>> view = RandHeadViewd(size=16).set_random_state(seed=0)
        >>> found = view({"image": torch.zeros(1, 40, 40, 40), "joints": []})
        >>> found["image"].shape, found["label"][:, 3].tolist()
        (torch.Size([1, 16, 16, 16]), [0.0, 0.0])
    """

    def __init__(
        self,
        size: int = 56,
        spacing_mm: float = 4.0,
        rotate_range_deg: float = 20.0,
        scale_range: Sequence[float] = (0.85, 1.2),
        shear: float = 0.12,
        bend_mm: float = 3.0,
    ) -> None:
        self.size = size
        self.spacing_mm = spacing_mm
        self.rotate_range_deg = rotate_range_deg
        self.smallest, self.largest = scale_range
        self.shear = shear
        self.bend_mm = bend_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The view of an item with ``image`` (1, i, j, k) and ``joints``."""
        volume = data["image"]
        grid = grid_of(volume)
        plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        mirrored = bool(self.R.random() < 0.5)
        matrix = self._view_to_world(mirrored, data["joints"])
        bend = torch.from_numpy(self.R.normal(0.0, self.bend_mm, (1, 3, *(_LATTICE,) * 3)).astype(np.float32))
        places = self._places(matrix, bend, data["joints"], mirrored)
        image = self._sampled(plain, _inverted(grid.affine), matrix, bend)
        image, field = self._looked_at(image, places)
        rows = [self._label(place, None if place is None else seen_depth(field, place)) for place in places]
        return {"image": image, "label": torch.tensor(rows, dtype=torch.float32)}

    def _label(self, place: Floats | None, depth_mm: float | None) -> list[float]:
        """What the locator should say of a joint."""
        voxel = [0.0] * 3 if place is None else (place / self.spacing_mm).tolist()
        return [*voxel, _shown(depth_mm)]

    def _view_to_world(self, mirrored: bool, joints: Sequence[Mapping[str, Any]]) -> Floats:
        """Millimetres from the view's first voxel -> world."""
        linear = _turn(self.R.uniform(-1.0, 1.0, 3) * math.radians(self.rotate_range_deg))
        common = self.R.uniform(self.smallest, self.largest)
        scales = np.clip(common * self.R.uniform(0.88, 1.12, 3), self.smallest, self.largest)
        shear = np.eye(3) + np.triu(self.R.uniform(-self.shear, self.shear, (3, 3)), 1)
        linear = linear @ shear @ np.diag(1.0 / scales)
        if mirrored:
            linear[:, 0] *= -1.0
        middle = np.mean([joint["center_mm"] for joint in joints], axis=0) if joints else np.zeros(3)
        target = middle + self.R.uniform(-1.0, 1.0, 3) * (15.0, 30.0, 45.0) + (0.0, 0.0, 0.0 if joints else 10.0)
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = target - linear @ np.full(3, self.spacing_mm * (self.size - 1) / 2)
        return matrix

    def _places(
        self, matrix: Floats, bend: Tensor, joints: Sequence[Mapping[str, Any]], mirrored: bool
    ) -> list[Floats | None]:
        """Where the left and the right joint are in the view, mm from its first voxel."""
        known = {joint["joint"]: np.array(joint["center_mm"], dtype=np.float64) for joint in joints}
        names = _SIDES[::-1] if mirrored else _SIDES
        inverse = _inverted(matrix)
        return [self._place(inverse, bend, known[name]) if name in known else None for name in names]

    def _place(self, inverse: Floats, bend: Tensor, world: Floats) -> Floats:
        """The point of the view that shows a point of the world, to a small part of a voxel."""
        place = moved(inverse, world)
        for _ in range(8):
            place = moved(inverse, world - self._bend_at(bend, place))
        return place

    def _bend_at(self, bend: Tensor, place: Floats) -> Floats:
        """Displacement in the world at a point of the view."""
        scaled = torch.from_numpy(2.0 * place[::-1].copy() / (self.spacing_mm * (self.size - 1)) - 1.0).float()
        found = F.grid_sample(bend, scaled.reshape(1, 1, 1, 1, 3), padding_mode="border", align_corners=True)
        return np.asarray(found.flatten().numpy(), dtype=np.float64)

    def _sampled(self, volume: Tensor, to_index: Floats, matrix: Floats, bend: Tensor) -> Tensor:
        """The head's values at the voxels of the view; air where it ends."""
        n = self.size
        steps = torch.arange(n, dtype=torch.float32) * self.spacing_mm
        points = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)
        world = points @ torch.from_numpy(matrix[:3, :3].T).float() + torch.from_numpy(matrix[:3, 3]).float()
        world = world + F.interpolate(bend, (n, n, n), mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
        index = world @ torch.from_numpy(to_index[:3, :3].T).float() + torch.from_numpy(to_index[:3, 3]).float()
        ends = torch.tensor(volume.shape[1:]) - 1
        grid = (2.0 * index / ends - 1.0).flip(-1)[None]
        values = F.grid_sample(volume[None].float() - AIR_HU, grid, align_corners=True)[0]
        return values + AIR_HU

    def _looked_at(self, image: Tensor, places: list[Floats | None]) -> tuple[Tensor, Any]:
        """The image as a scanner sees it, and its field of view."""
        extent = self.spacing_mm * (self.size - 1)
        field = draw_field(self.R, extent, [place for place in places if place is not None])
        image = disturbed(image, draw_disturbance(self.R), self.R)
        steps = torch.arange(self.size) * self.spacing_mm
        fill = AIR_HU if self.R.random() < 0.8 else self.R.uniform(AIR_HU, 0.0)
        return torch.where(field.holds(steps), image, torch.tensor(fill, dtype=torch.float32)), field


def _inverted(matrix: Floats) -> Floats:
    """The inverse of an affine matrix."""
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _turn(angles: Floats) -> Floats:
    """Rotations about the three axes, one after the other."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles.tolist()):
        one, two = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = math.cos(angle)
        turn[one, two], turn[two, one] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _shown(depth_mm: float | None) -> float:
    """Whether a joint so far inside the view is shown."""
    if depth_mm is None or depth_mm < -_EDGE_MM:
        return 0.0
    return 1.0 if depth_mm > _EDGE_MM else -1.0
