"""Randomness of the token mask, drawn with the sample."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform
from monai.utils import ensure_tuple_rep

__all__ = ["RandTokenNoised"]


class RandTokenNoised(RandomizableTransform):  # type: ignore[misc]
    """Add uniform noise, one number per token; the network keeps the tokens with the lowest noise visible.

    Drawing the mask with the sample makes it repeatable: it depends on the sample's seed, not on the device or on how
    many random numbers were drawn before.

    Args:
        img_size: voxels per axis of the crop, an int or three.
        patch_size: edge of a token in voxels.
        key: where the noise (n,) float32 is put.

    Raises:
        ValueError: ``img_size`` is not a multiple of ``patch_size``.

    Example:
        >>> RandTokenNoised(32, 8).set_random_state(0)({})["noise"].shape
        torch.Size([64])
    """

    def __init__(self, img_size: int | Sequence[int], patch_size: int, key: str = "noise") -> None:
        super().__init__(prob=1.0)
        sizes = ensure_tuple_rep(img_size, 3)
        if patch_size < 1 or any(size < 1 or size % patch_size for size in sizes):
            raise ValueError(
                f"`img_size` must be a multiple of `patch_size` along every axis, got {img_size} and {patch_size}."
            )
        self.num_tokens = int(np.prod([size // patch_size for size in sizes]))
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its noise."""
        return {**data, self.key: torch.from_numpy(self.R.random_sample(self.num_tokens).astype(np.float32))}
