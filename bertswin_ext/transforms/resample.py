"""A volume's values at the voxels of another grid: float32, one pass, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import itk
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.geometry import Floats
from bertswin_ext.transforms.crop_plan import bounds

__all__ = ["MODES", "resample"]

MODES = ("bilinear", "nearest")

_VOXELS_AT_ONCE = 1 << 22
_ROUNDING = 1e-6
_ITK_TYPES = (torch.float32, torch.int16, torch.uint8)


def resample(volume: Tensor, matrix: Floats, size: Sequence[int], mode: str = "bilinear", fill: float = 0.0) -> Tensor:
    """Values of a volume at the voxels of another grid.

    A voxel whose position is within half a voxel of the volume's outermost centres takes the value of the edge, one
    further out is filled. Positions are right to a thousandth of a voxel. A grid that is only shifted by whole voxels
    or flipped is copied; else ITK interpolates on a CPU, with as many threads as torch has, and torch elsewhere.

    Args:
        volume: of any real type.
        matrix: index in the new grid -> index in the volume, (4, 4).
        size: voxels of the new grid.
        mode: ``"bilinear"`` (in three dimensions: trilinear) or ``"nearest"``.
        fill: value outside the volume.

    Shape:
        ``volume`` is (c, i, j, k), the result (c, *size).

    Returns:
        A tensor of its own on the volume's device: float32, or for ``"nearest"`` of the volume's type.

    Raises:
        ValueError: the mode is another, or the volume's type cannot hold ``fill``.

    Source: arXiv 2512.21769's code builds its grid in bfloat16 and with mixed conventions of `align_corners`, which
        puts voxels up to a voxel off.

    Example:
        >>> ramp = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 2, 2)
        >>> step = np.diag([0.5, 1.0, 1.0, 1.0])
        >>> resample(ramp, step, (4, 1, 1)).flatten().tolist()
        [0.0, 0.5, 1.0, 1.5]
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}.")
    dtype = volume.dtype if mode == "nearest" else torch.float32
    _check_fill(fill, dtype)
    if _is_on_grid(matrix):
        return _copied(volume, matrix, size, fill, dtype)
    return (_by_itk if _is_for_itk(volume, dtype) else _by_torch)(volume.detach(), matrix, size, mode, fill)


def _check_fill(fill: float, dtype: torch.dtype) -> None:
    """Raise if a type cannot hold the value."""
    if not dtype.is_floating_point and torch.tensor(fill, dtype=torch.float64).to(dtype).item() != fill:
        raise ValueError(
            f"`fill` must be a value of the volume's type {str(dtype).removeprefix('torch.')}, got {fill:g}. "
            "Use 0 for labels."
        )


# --- by copying ---


def _is_on_grid(matrix: Floats) -> bool:
    """Tell whether voxels fall on voxels, along the same axes, one by one."""
    axes, first = np.abs(matrix[:3, :3]), matrix[:3, 3]
    return bool(np.abs(axes - np.eye(3)).max() < _ROUNDING**2 and np.abs(first - np.rint(first)).max() < _ROUNDING)


def _copied(volume: Tensor, matrix: Floats, size: Sequence[int], fill: float, dtype: torch.dtype) -> Tensor:
    """The volume shifted by whole voxels, and flipped."""
    result = volume.new_full((volume.shape[0], *size), fill, dtype=dtype)
    firsts, backward = np.rint(matrix[:3, 3]).astype(int), np.diag(matrix)[:3] < 0
    parts = [
        _overlap(int(first), bool(back), new, old)
        for first, back, new, old in zip(firsts, backward, size, volume.shape[1:], strict=True)
    ]
    if all(new.start < new.stop for new, _ in parts):
        found = volume[(slice(None), *(old for _, old in parts))]
        result[(slice(None), *(new for new, _ in parts))] = found.flip([1 + int(a) for a in np.flatnonzero(backward)])
    return result


def _overlap(first: int, backward: bool, num_new: int, num_old: int) -> tuple[slice, slice]:
    """Which voxels of the new axis lie on which of the old one, if its voxel 0 lies on ``first``."""
    if backward:
        start, stop = max(0, first - num_old + 1), min(num_new, first + 1)
        return slice(start, stop), slice(first - stop + 1, first - start + 1)
    start, stop = max(0, -first), min(num_new, num_old - first)
    return slice(start, stop), slice(first + start, first + stop)


# --- by ITK ---


def _is_for_itk(volume: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether ITK knows the type, on a CPU; it reads a single line of voxels along the wrong axis."""
    return volume.device.type == "cpu" and dtype in _ITK_TYPES and sum(n > 1 for n in volume.shape[1:]) > 1


def _by_itk(volume: Tensor, matrix: Floats, size: Sequence[int], mode: str, fill: float) -> Tensor:
    """Every channel by ITK, whose first axis is the one that runs fastest."""
    transform = itk.AffineTransform[itk.D, 3].New()
    transform.SetMatrix(itk.matrix_from_array(matrix[2::-1, 2::-1].copy()))
    transform.SetOffset(matrix[2::-1, 3].tolist())
    values = volume if mode == "nearest" else volume.float()
    channels = [_channel_by_itk(channel, transform, size, mode, fill) for channel in values]
    return torch.stack(channels) if len(channels) > 1 else channels[0][None]


def _channel_by_itk(channel: Tensor, transform: itk.Transform, size: Sequence[int], mode: str, fill: float) -> Tensor:
    """One channel (i, j, k); a view of ITK's memory."""
    image = itk.image_view_from_array(channel.contiguous().numpy())
    resampler = itk.ResampleImageFilter[type(image), type(image)].New(image)
    if mode == "nearest":
        resampler.SetInterpolator(itk.NearestNeighborInterpolateImageFunction[type(image), itk.D].New())
    resampler.SetTransform(transform)
    resampler.SetSize([int(n) for n in reversed(size)])
    resampler.SetDefaultPixelValue(fill if channel.is_floating_point() else int(fill))
    resampler.SetNumberOfWorkUnits(torch.get_num_threads())
    resampler.Update()
    return torch.from_numpy(itk.array_view_from_image(resampler.GetOutput()))


# --- by torch ---


def _by_torch(volume: Tensor, matrix: Floats, size: Sequence[int], mode: str, fill: float) -> Tensor:
    """`grid_sample`, some planes at a time so that the grid stays small."""
    source, shape = volume[None].float(), volume.shape[1:]
    along_i, along_j, along_k = _grid_terms(matrix, shape, size, volume.device)
    inside = _is_inside(matrix, shape, size)
    result = volume.new_empty((volume.shape[0], *size), dtype=volume.dtype if mode == "nearest" else torch.float32)
    num_planes = max(1, _VOXELS_AT_ONCE // (size[1] * size[2]))
    for start in range(0, size[0], num_planes):
        grid = along_i[start : start + num_planes, None, None] + along_j[:, None] + along_k
        values = F.grid_sample(source, grid[None], mode=mode, padding_mode="border", align_corners=True)[0]
        result[:, start : start + num_planes] = values if inside else _filled(values, grid, shape, fill)
    return result


def _grid_terms(matrix: Floats, shape: Sequence[int], size: Sequence[int], device: torch.device) -> list[Tensor]:
    """What the indices i, j and k of a voxel add to its place in the grid of `grid_sample`, (n, 3) each.

    That grid runs from -1 to 1 between the outermost centres, last axis first. The terms are made in float64, their
    sum in float32 is right to a few units of its last place.
    """
    steps = _grid_steps(shape)
    terms = [np.arange(n)[:, None] * (matrix[:3, axis] * steps) for axis, n in enumerate(size)]
    terms[0] = terms[0] + (matrix[:3, 3] * steps - 1)
    return [torch.from_numpy(term[:, ::-1].astype(np.float32)).to(device) for term in terms]


def _grid_steps(shape: Sequence[int]) -> Floats:
    """A voxel's step in the grid of `grid_sample`; anything will do along an axis of one voxel."""
    return 2 / np.maximum(np.array(shape) - 1.0, 1.0)


def _is_inside(matrix: Floats, shape: Sequence[int], size: Sequence[int]) -> bool:
    """Tell whether nothing is to be filled."""
    low, high = bounds(matrix, size)
    return bool((low >= -0.5).all() and (high <= np.array(shape) - 0.5).all())


def _filled(values: Tensor, grid: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    """Values with those replaced whose place is more than half a voxel outside."""
    steps = _grid_steps(shape)
    low, high = (grid.new_tensor((ends * steps - 1)[::-1].copy()) for ends in (np.full(3, -0.5), np.array(shape) - 0.5))
    return values.masked_fill(((grid < low) | (grid > high)).any(dim=-1), fill)
