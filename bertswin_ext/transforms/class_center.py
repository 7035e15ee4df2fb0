"""Crops in which every class is seen as often as it is meant to be: their centres are drawn class by class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from bertswin_ext.geometry import Floats, moved
from bertswin_ext.transforms.volume_grid import Volume, grid_of, planes_of

__all__ = ["LabelVoxelsd", "RandClassCenterd"]

Ranks = npt.NDArray[np.int64]


class LabelVoxelsd(MapTransform):  # type: ignore[misc]
    """Note where voxels of every class are, for `RandClassCenterd`; the same ones every time.

    The voxels of a class are counted in the order i, j, k, the count is split into as many equal parts as are wanted,
    and one is taken from each. A stored label is read plane by plane; as it is read whole, and noting is deterministic,
    let the dataset cache it.

    Args:
        keys: key of the label, (1, i, j, k) or a stored volume; one.
        num_classes: ids that are looked for: 0, 1, ...
        max_voxels: most voxels to note of each class.
        voxels_key: where they are put: a list with an array (n, 3) of RAS mm, float32, for each class.
        allow_missing_keys: pass an item without a label through.

    Raises:
        ValueError: there is more than one key, or a number is out of range.

    Example:
        >>> import torch
        >>> item = LabelVoxelsd(num_classes=2)({"label": torch.tensor([0, 1, 0, 0]).reshape(1, 1, 1, 4)})
        >>> [places[:, 2].tolist() for places in item["class_voxels_mm"]]
        [[0.0, 2.0, 3.0], [1.0]]
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        num_classes: int = 3,
        max_voxels: int = 2000,
        voxels_key: str = "class_voxels_mm",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1 or num_classes < 1 or max_voxels < 1:
            raise ValueError(
                "`keys` must be one key, `num_classes` and `max_voxels` at least 1, got "
                f"{', '.join(map(str, self.keys))}; {num_classes}; {max_voxels}."
            )
        self.num_classes = num_classes
        self.max_voxels = max_voxels
        self.voxels_key = voxels_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the places of its classes."""
        item = dict(data)
        for key in self.key_iterator(item):
            affine, ranks = grid_of(item[key]).affine, self._ranks(item[key])
            places = [moved(affine, voxels) for voxels in _picked(item[key], ranks)]
            item[self.voxels_key] = [place.astype(np.float32) for place in places]
        return item

    def _ranks(self, label: Volume) -> list[Ranks]:
        """Which of the voxels of each class are noted."""
        counts = sum(
            np.array([np.count_nonzero(plane == n) for n in range(self.num_classes)]) for plane in planes_of(label)
        )
        return [_spread(int(count), self.max_voxels) for count in np.broadcast_to(counts, self.num_classes)]


class RandClassCenterd(RandomizableTransform):  # type: ignore[misc]
    """Put a voxel of a class drawn at random where `RandJointCropd` looks for the joint.

    So the crop is placed as it is around a joint: the voxel lies in its core unless the volume ends there, when the
    crop is moved inside, still holding the voxel. If the item has a field of view the crop's middle is moved into it,
    so that no crop is drawn from the empty corners, which are background.

    An item in which no class was looked for, or none that is wanted was found, stays as it is: the crop is placed
    around its joint, or anywhere.

    Args:
        ratios: how often each class is drawn, relative to the others; classes that an item lacks are left out.
        voxels_key: key of the places, see `LabelVoxelsd`; taken off the item.
        center_key: where the place is put, RAS mm.

    Raises:
        ValueError: a ratio is negative, or all are 0; when called, there are more or fewer classes than ratios.

    Example:
        >>> item = {"class_voxels_mm": [np.zeros((0, 3)), np.array([[4.0, 5.0, 6.0]])]}
        >>> RandClassCenterd(ratios=[1, 1])(item)
        {'center_mm': [4.0, 5.0, 6.0]}
    """

    def __init__(
        self,
        ratios: Sequence[float] = (1, 1, 1),
        voxels_key: str = "class_voxels_mm",
        center_key: str = "center_mm",
    ) -> None:
        super().__init__(prob=1.0)
        self.ratios = np.asarray(ratios, dtype=np.float64)
        self.voxels_key = voxels_key
        self.center_key = center_key
        if self.ratios.ndim != 1 or not (self.ratios >= 0).all() or not 0 < self.ratios.sum() < np.inf:
            raise ValueError(f"`ratios` must be one number for each class, from 0, and not all 0, got {ratios!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with a centre for its crop."""
        item = dict(data)
        draws = self.R.random_sample(2)  # always as many
        places = item.pop(self.voxels_key, None)
        if places is None:
            return item
        if len(places) != len(self.ratios):
            raise ValueError(
                f"`ratios` must have one number for each of the {len(places)} classes that were noted, got "
                f"{len(self.ratios)}. Give `LabelVoxelsd` as many `num_classes`."
            )
        shares = self.ratios * [len(place) > 0 for place in places]
        if shares.any():
            chosen = places[_drawn(shares, draws[0])]
            item[self.center_key] = [float(mm) for mm in chosen[int(draws[1] * len(chosen))]]
        return item


def _drawn(shares: Floats, draw: float) -> int:
    """Index of the share that a number in [0, 1) falls into."""
    ends = np.cumsum(shares)
    return int(np.searchsorted(ends, draw * ends[-1], side="right"))


def _spread(count: int, most: int) -> Ranks:
    """At most so many of the numbers below ``count``, one from each of as many equal parts."""
    if count <= most:
        return np.arange(count)
    # where in its part varies: a constant step could run along one plane
    within = np.random.default_rng(count).random(most)
    return np.unique(((np.arange(most) + within) * (count / most)).astype(np.int64))


def _picked(label: Volume, ranks: Sequence[Ranks]) -> list[Ranks]:
    """Indices (n, 3) of the voxels of these ranks of each class."""
    picked: list[list[Ranks]] = [[np.zeros((0, 3), dtype=np.int64)] for _ in ranks]
    before = [0] * len(ranks)
    for i, plane in enumerate(planes_of(label)):
        for n, wanted in enumerate(ranks):
            voxels = np.flatnonzero(plane == n)
            low, high = np.searchsorted(wanted, (before[n], before[n] + len(voxels)))
            j, k = np.unravel_index(voxels[wanted[low:high] - before[n]], plane.shape)
            picked[n].append(np.column_stack([np.full(len(j), i), j, k]))
            before[n] += len(voxels)
    return [np.concatenate(parts) for parts in picked]
