"""Random piecewise-linear warp of the HU scale: tissues change their brightness, but keep their order."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

__all__ = ["HU_ANCHORS", "RandHUWarp", "RandHUWarpd"]

HU_ANCHORS: Mapping[float, float] = MappingProxyType(
    {-500.0: 0.0, -80.0: 25.0, 15.0: 10.0, 45.0: 8.0, 90.0: 6.0, 1000.0: 20.0, 1500.0: 0.0}
)
"""Anchor in HU: how far it may shift in HU. Fat, fluid, soft tissue and bone lie between the two ends."""

# voxels per pass on a CPU: the block stays in the cache for all segments
_CPU_BLOCK = 1 << 17


class RandHUWarp(RandomizableTransform):  # type: ignore[misc]
    """Shift the brightness of tissues at random: a piecewise-linear map of HU to HU.

    Every anchor moves uniformly within its range, then the moved anchors are sorted, so that the map never falls. HU
    between two anchors are interpolated, HU outside all anchors stay as they are.

    Args:
        anchors: anchors in HU, each with the largest shift in HU.
        prob: how often a volume is warped.

    Shape:
        - input: HU, any shape, array or tensor on any device.
        - output: likewise, float32; the input is not written to, the metadata of a MetaTensor are kept.

    Raises:
        ValueError: fewer than two anchors, a shift that is negative or not finite, an end that shifts, or an anchor
            that could shift past an end. The last two would make the map jump.

    Source: arXiv 2512.21769, section 4, anchors and probability. The authors' code scales anchors to [0, 1] and
    standardizes that by the HU statistics, which puts all of them next to 0, and extends the outermost segments
    instead of keeping what is outside; here everything is HU.

    Example:
        >>> warp = RandHUWarp({-100: 0, 0: 10, 100: 0}, prob=1.0).set_random_state(0)
        >>> warp(torch.tensor([-200.0, -50.0, 0.0, 100.0])).round(decimals=2)
        tensor([-200.0000,  -48.9700,    2.0600,  100.0000])
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's own declaration

    def __init__(self, anchors: Mapping[float, float] = HU_ANCHORS, prob: float = 0.8) -> None:
        super().__init__(prob)
        # keys of a JSON configuration are strings
        self.anchors = {float(hu): float(shift) for hu, shift in anchors.items()}
        _check_anchors(self.anchors)
        self.anchors = dict(sorted(self.anchors.items()))
        self.shifted_hu = list(self.anchors)

    def randomize(self, data: Any = None) -> None:
        """Draw whether to warp, and where every anchor goes."""
        super().randomize(None)
        shifts = self.R.uniform(-1, 1, len(self.anchors)) * list(self.anchors.values())
        self.shifted_hu = np.sort(list(self.anchors) + shifts).tolist()

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> torch.Tensor:
        """Warp a volume in HU; ``randomize=False`` repeats the last draw."""
        if randomize:
            self.randomize()
        volume = convert_to_tensor(img, dtype=torch.float32, track_meta=isinstance(img, MetaTensor))
        if not self._do_transform:
            return volume
        hu = convert_to_tensor(volume, track_meta=False)
        return convert_to_dst_type(_warped(hu, list(self.anchors), self.shifted_hu), volume)[0]


class RandHUWarpd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """`RandHUWarp` of an item: all keys get the same warp.

    Args:
        keys: keys of volumes in HU.
        anchors: anchors in HU, each with the largest shift in HU.
        prob: how often an item is warped.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        ValueError: as for `RandHUWarp`.

    Example:
        >>> warp = RandHUWarpd("image", prob=1.0).set_random_state(0)
        >>> warp({"image": torch.tensor([[-1000.0, 2000.0]])})["image"]
        tensor([[-1000.,  2000.]])
    """

    backend = RandHUWarp.backend

    def __init__(
        self,
        keys: KeysCollection,
        anchors: Mapping[float, float] = HU_ANCHORS,
        prob: float = 0.8,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.warp = RandHUWarp(anchors, prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandHUWarpd:
        """Seed this transform and the warp that it holds: one stream for both."""
        super().set_random_state(seed, state)
        self.warp.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw one warp for all keys."""
        self.warp.randomize()
        self._do_transform = self.warp._do_transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Warp the volumes of an item."""
        self.randomize()
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.warp(item[key], randomize=False)
        return item


def _check_anchors(anchors: Mapping[float, float]) -> None:
    """Raise unless every possible map is continuous and is the identity at both ends."""
    found = f"got {dict(anchors)}."
    if len(anchors) < 2:
        raise ValueError(f"`anchors` must be at least two, {found}")
    if not np.isfinite([*anchors, *anchors.values()]).all() or min(anchors.values()) < 0:
        raise ValueError(f"`anchors` must be finite HU with finite shifts of at least 0, {found}")
    first, last = min(anchors), max(anchors)
    if anchors[first] or anchors[last]:
        raise ValueError(
            f"The outermost `anchors` must have shift 0, or the map would jump there, {found} Add an anchor with "
            "shift 0 at either end."
        )
    if any(hu - shift < first or hu + shift > last for hu, shift in anchors.items()):
        raise ValueError(f"No anchor of `anchors` may shift past the outermost ones, {found}")


def _warped(hu: torch.Tensor, anchors_hu: list[float], shifted_hu: list[float]) -> torch.Tensor:
    """A float32 tensor with anchors moved; a new tensor."""
    shifts = [shifted - anchor for anchor, shifted in zip(anchors_hu, shifted_hu, strict=True)]
    result = torch.empty_like(hu, memory_format=torch.contiguous_format)
    block = _CPU_BLOCK if hu.device.type == "cpu" else max(1, hu.numel())
    for source, target in zip(hu.reshape(-1).split(block), result.view(-1).split(block), strict=True):
        _displacement(source, anchors_hu, shifts, out=target).add_(source)
    return result


def _displacement(hu: torch.Tensor, anchors_hu: list[float], shifts_hu: list[float], out: torch.Tensor) -> torch.Tensor:
    """How far every voxel moves: one ramp per segment, flat outside its segment."""
    out.zero_()
    for (left, right), (shift_left, shift_right) in zip(pairwise(anchors_hu), pairwise(shifts_hu), strict=True):
        out.add_(hu.clamp(left, right).sub_(left), alpha=(shift_right - shift_left) / (right - left))
    return out
