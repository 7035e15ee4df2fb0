"""A network on volumes of any size, window by window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import ensure_tuple_rep

from bertswin_ext.errors import times
from bertswin_ext.inferers.mirrored import MirroredInferer
from bertswin_ext.voxels import VOXELS

__all__ = ["sliding_window"]

_LARGE_VOXELS = 400**3


def sliding_window(
    roi_size: int | Sequence[int],
    patch_size: int,
    sw_batch_size: int = 1,
    overlap: float | Sequence[float] = 0.5,
    mirror_axes: Sequence[int] = (),
    cval: float = VOXELS.normalized(VOXELS.min_hu),
    sw_device: torch.device | str | None = None,
    device: torch.device | str | None = None,
    cpu_thresh: int | None = _LARGE_VOXELS,
) -> Inferer:
    """MONAI's sliding window for standardized CT: Gaussian blending, air around volumes that are smaller than a window.

    The network sees one window at a time, so that its memory does not grow with the volume. What does are the volume,
    the output, and a map of weights: (2 + classes) float32 numbers for every voxel.

    Args:
        roi_size: voxels of a window, one number or one per axis.
        patch_size: edge of a token in voxels, which divides the window.
        sw_batch_size: windows that go through the network together.
        overlap: share of a window that the next one covers again, one number or one per axis, in [0, 1).
        mirror_axes: axes of test-time mirroring, see `MirroredInferer`; none by default.
        cval: what lies outside the volume; standardized air by default.
        sw_device: where windows go through the network; the volume's device when None.
        device: where windows are put together; the volume's device when None.
        cpu_thresh: with ``device`` None, volumes of more voxels than this are put together in main memory; None means
            never.

    Shape:
        The inferer takes ``(b, c, i, j, k)`` and gives ``(b, classes, i, j, k)``.

    Returns:
        The inferer.

    Raises:
        ValueError: a window that is no multiple of the patch, an overlap out of range, fewer than one window at a time,
            or a wrong axis.

    Example:
        >>> inferer = sliding_window(roi_size=16, patch_size=8)
        >>> inferer(torch.ones(1, 1, 40, 20, 12), lambda window: 2 * window).shape
        torch.Size([1, 1, 40, 20, 12])
    """
    window = _window(roi_size, patch_size)
    inferer = SlidingWindowInferer(
        roi_size=window,
        sw_batch_size=_at_least_one(sw_batch_size),
        overlap=_overlaps(overlap),
        mode="gaussian",
        cval=cval,
        sw_device=sw_device,
        device=device,
        progress=False,
        cache_roi_weight_map=True,
        cpu_thresh=cpu_thresh,
    )
    return MirroredInferer(inferer, mirror_axes) if len(mirror_axes) else inferer


def _window(roi_size: int | Sequence[int], patch_size: int) -> tuple[int, ...]:
    """The window, which must be made of whole patches."""
    window = tuple(int(size) for size in ensure_tuple_rep(roi_size, 3))
    if patch_size < 1:
        raise ValueError(f"`patch_size` must be at least 1, got {patch_size}. Use that of the network.")
    if any(size < 1 or size % patch_size for size in window):
        near = [max(1, round(size / patch_size)) * patch_size for size in window]
        raise ValueError(
            f"`roi_size` must be a multiple of the network's patch of {patch_size} voxels along every axis, got "
            f"{times(window)}. Use {times(near)}, say."
        )
    return window


def _overlaps(overlap: float | Sequence[float]) -> tuple[float, ...]:
    """The overlap of every axis."""
    overlaps = tuple(float(share) for share in ensure_tuple_rep(overlap, 3))
    if not all(0 <= share < 1 for share in overlaps):
        raise ValueError(
            f"`overlap` must be at least 0 and below 1, got {overlap}. Use 0.25 for speed, 0.5 for smooth seams."
        )
    return overlaps


def _at_least_one(sw_batch_size: int) -> int:
    """How many windows go through the network together."""
    if sw_batch_size < 1:
        raise ValueError(f"`sw_batch_size` must be at least 1, got {sw_batch_size}.")
    return sw_batch_size
