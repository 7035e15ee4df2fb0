"""Which tokens of a crop hold what the scanner saw."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Transform
from torch import Tensor

from bertswin_ext.errors import times
from bertswin_ext.geometry import FieldOfView, Floats
from bertswin_ext.transforms.crop_plan import CropPlan

__all__ = ["TokenValidity", "TokenValidityd"]

Flags = npt.NDArray[np.bool_]

_VOXELS_AT_ONCE = 1 << 19
_NUM_FACES = 3  # pairs of faces of the volume; what follows is the cylinder


class TokenValidity(Transform):  # type: ignore[misc]
    """Find the tokens of a crop whose voxels lie in the scan: in the volume and in the scanner's field of view.

    What lies outside is fill, which there is nothing to learn from. Tokens that are clear of the borders are told by
    their centres; voxels are counted in the others only.

    Args:
        patch_size: edge of a token in voxels.
        min_inside: a token is valid when more than this part of its voxels is inside.

    Shape:
        The result is (n,), tokens in C order.

    Raises:
        ValueError: a number is out of range.

    Source: arXiv 2512.21769, section 4: more than 95 % of the voxels.

    Example:
        >>> from bertswin_ext.transforms.crop_plan import plan_crop
        >>> plan = plan_crop((8, 4, 4), np.eye(4), (8, 4, 4), (5.5, 1.5, 1.5))
        >>> TokenValidity(patch_size=2)(plan).reshape(4, 2, 2)[:, 0, 0].tolist()
        [True, True, True, False]
    """

    def __init__(self, patch_size: int, min_inside: float = 0.95) -> None:
        if patch_size < 1:
            raise ValueError(f"`patch_size` must be at least 1, got {patch_size}.")
        if not 0 <= min_inside < 1:
            raise ValueError(f"`min_inside` must lie in [0, 1), got {min_inside:g}. The paper's is 0.95.")
        self.patch_size = patch_size
        self.min_inside = min_inside

    def __call__(
        self,
        plan: CropPlan,
        fov: FieldOfView | Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The valid tokens.

        Args:
            plan: where the crop lies.
            fov: the scanner's field of view, or a datalist's entry of it; None where it is not known.
            device: where to count, and where the result is.

        Raises:
            ValueError: no token is valid, or the crop's size is not a multiple of ``patch_size``.
        """
        centers = _token_centers(plan, self.patch_size)
        seen = fov if fov is None or isinstance(fov, FieldOfView) else FieldOfView.of_item(fov)
        scan = _to_scan(plan, seen)
        inside, outside = _clear_of_borders(scan, centers, self.patch_size)
        valid = torch.from_numpy(inside).to(device)
        undecided = torch.from_numpy(np.flatnonzero(~inside & ~outside)).to(device)
        if len(undecided):
            valid[undecided] = self._counted(scan, centers[~inside & ~outside], valid.device)
        # looks at the device only where no token is clear of the borders
        if not inside.any() and not valid.any():
            raise ValueError(
                f"{plan.name}: no token of the crop lies in the scan. Check the joint's centre and the field of view "
                f"in the datalist{'' if seen is None else ' (' + _written(seen) + ')'}."
            )
        return valid

    def _counted(self, scan: Floats, centers: Floats, device: torch.device) -> Tensor:
        """Tell by counting voxels whether tokens are valid."""
        num_voxels = self.patch_size**3
        # a product such as 0.95 * 8000 must not fall short of the whole number that it stands for
        least = int(self.min_inside * num_voxels + 1e-6) + 1
        places = torch.from_numpy((_homogeneous(centers) @ scan.T).astype(np.float32)).to(device)
        steps = torch.from_numpy((_voxel_steps(self.patch_size) @ scan[:, :3].T).astype(np.float32)).to(device)
        chunks = places.split(max(1, _VOXELS_AT_ONCE // num_voxels))
        return torch.cat([_is_in_scan(chunk[:, None] + steps).sum(dim=1) >= least for chunk in chunks])


class TokenValidityd(Transform):  # type: ignore[misc]
    """Find the tokens of an item's crop whose voxels lie in the scan, see `TokenValidity`.

    Args:
        patch_size: edge of a token in voxels.
        min_inside: a token is valid when more than this part of its voxels is inside.
        image_key: key of the volume on whose device the result is.
        fov_key: key of the field of view; an item without it has none.
        plan_key: key of the `CropPlan`.
        key: where the result (n,) bool is put.

    Raises:
        ValueError: see `TokenValidity`.

    Source: see `TokenValidity`.

    Example:
        >>> from bertswin_ext.transforms.crop_plan import plan_crop
        >>> plan = plan_crop((8, 8, 8), np.eye(4), (4, 4, 4), (3.5, 3.5, 3.5))
        >>> item = {"crop": plan, "fov": {"center_mm": [3.5, 0.0, 3.5], "radius_mm": 4.0}}
        >>> TokenValidityd(patch_size=2)(item)["valid"].reshape(2, 2, 2)[0].tolist()
        [[True, True], [False, False]]
    """

    def __init__(
        self,
        patch_size: int,
        min_inside: float = 0.95,
        image_key: str = "image",
        fov_key: str = "fov",
        plan_key: str = "crop",
        key: str = "valid",
    ) -> None:
        self.validity = TokenValidity(patch_size, min_inside)
        self.image_key = image_key
        self.fov_key = fov_key
        self.plan_key = plan_key
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its valid tokens."""
        image = data.get(self.image_key)
        device = image.device if isinstance(image, Tensor) else "cpu"
        return {**data, self.key: self.validity(data[self.plan_key], data.get(self.fov_key), device)}


def _to_scan(plan: CropPlan, fov: FieldOfView | None) -> Floats:
    """Index in the crop -> coordinates in which the scan ends at 1, as rows of (3, 4) or (5, 4).

    The first three run across the volume, from -1 at one face to 1 at the other; the other two across the cylinder,
    whose rim is where the sum of their squares is 1.
    """
    half = np.array(plan.shape) / 2
    rows = plan.matrix[:3] / half[:, None]
    rows[:, 3] += 0.5 / half - 1
    if fov is None:
        return rows
    across = fov.across() @ plan.crop_affine[:3]
    across[:, 3] -= fov.across() @ np.array(fov.center_mm)
    return np.concatenate([rows, across / fov.radius_mm])


def _token_centers(plan: CropPlan, patch_size: int) -> Floats:
    """Indices in the crop of the tokens' middles, (n, 3)."""
    if any(size % patch_size for size in plan.size):
        raise ValueError(
            f"The crop must be a multiple of `patch_size` = {patch_size} along every axis, got {times(plan.size)}."
        )
    grid = np.indices([size // patch_size for size in plan.size]).reshape(3, -1).T
    return np.asarray(grid * patch_size + (patch_size - 1) / 2)


def _voxel_steps(patch_size: int) -> Floats:
    """From a token's middle to its voxels, (patch_size^3, 3)."""
    return np.asarray(np.indices([patch_size] * 3).reshape(3, -1).T - (patch_size - 1) / 2)


def _homogeneous(points: Floats) -> Floats:
    """Points with a 1 behind them."""
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _clear_of_borders(scan: Floats, centers: Floats, patch_size: int) -> tuple[Flags, Flags]:
    """Which tokens are wholly in the scan and which are wholly outside, told by how far a token can reach."""
    places = _homogeneous(centers) @ scan.T
    reach = np.abs(scan[:, :3]).sum(axis=1) * (patch_size - 1) / 2
    depth = 1 - np.abs(places[:, :_NUM_FACES])
    if len(scan) > _NUM_FACES:
        depth = np.column_stack([depth, 1 - np.linalg.norm(places[:, _NUM_FACES:], axis=1)])
        reach = np.append(reach[:_NUM_FACES], np.linalg.norm(reach[_NUM_FACES:]))
    return (depth > reach).all(axis=1), (depth < -reach).any(axis=1)


def _is_in_scan(places: Tensor) -> Tensor:
    """Tell which points (..., 3 or 5) of `_to_scan` are inside."""
    inside = (places[..., :_NUM_FACES].abs() <= 1).all(dim=-1)
    if places.shape[-1] > _NUM_FACES:
        inside &= places[..., _NUM_FACES:].square().sum(dim=-1) <= 1
    return inside


def _written(fov: FieldOfView) -> str:
    """Write a field of view in words."""
    return f"radius {fov.radius_mm:g} mm around {[round(x, 2) for x in fov.center_mm]}"
