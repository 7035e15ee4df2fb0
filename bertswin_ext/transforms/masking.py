"""Randomness of the token mask, drawn with the sample."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import RandomizableTransform
from monai.utils import ensure_tuple_rep

__all__ = ["RandTokenNoised"]


class RandTokenNoised(RandomizableTransform):  # type: ignore[misc]
    """Add noise, one number per token; the network keeps the tokens with the lowest noise visible.

    Drawing the mask with the sample makes it repeatable: it depends on the sample's seed, not on the device or on how
    many random numbers were drawn before.

    With blocks the hidden parts are larger than a token, so that less can be guessed from what is next to them. The
    grid is cut into cubes of ``block_size`` tokens, at an offset that is drawn for every sample, so that every border
    between tokens is one between blocks at times; blocks at the sides of the grid may be cut off. The blocks come in a
    random order, and within a block its tokens do. However many tokens are kept, they are whole blocks and, in part,
    the one that is next.

    Args:
        img_size: voxels per axis of the crop, an int or three.
        patch_size: edge of a token in voxels.
        key: where the noise (n,) float32 in [0, 1] is put.
        block_size: edge of a block in tokens; 1 draws every token by itself. It need not divide the grid.

    Raises:
        ValueError: ``img_size`` is not a multiple of ``patch_size``, or a block is larger than the grid.

    Source: single tokens as in He et al., arXiv 2111.06377; larger hidden squares as in SimMIM (Xie et al., arXiv
    2111.09886), whose blocks lie on one fixed grid. Cubes at a random offset are ours.

    Example:
        >>> RandTokenNoised(32, 8, block_size=2).set_random_state(0)({})["noise"].shape
        torch.Size([64])
    """

    def __init__(self, img_size: int | Sequence[int], patch_size: int, key: str = "noise", block_size: int = 1) -> None:
        super().__init__(prob=1.0)
        sizes = ensure_tuple_rep(img_size, 3)
        if patch_size < 1 or any(size < 1 or size % patch_size for size in sizes):
            raise ValueError(
                f"`img_size` must be a multiple of `patch_size` along every axis, got {img_size} and {patch_size}."
            )
        self.grid_size = tuple(size // patch_size for size in sizes)
        if not 1 <= block_size <= min(self.grid_size):
            raise ValueError(
                "`block_size` counts tokens and must lie between 1 and the token grid img_size / patch_size = "
                f"{self.grid_size} on every axis, got {block_size}."
            )
        self.num_tokens = int(np.prod(self.grid_size))
        self.key = key
        self.block_size = block_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its noise."""
        noise = self.R.random_sample(self.num_tokens)
        if self.block_size > 1:
            noise = self._in_blocks(noise)
        return {**data, self.key: torch.from_numpy(noise.astype(np.float32))}

    def _in_blocks(self, noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Noise that puts the tokens in the order of their blocks, and in that of their own noise within a block."""
        blocks = self._blocks()
        block_order = self.R.permutation(blocks.max() + 1)
        # places in the order, not sums of random numbers, which float32 would round to equal ones
        places = np.empty_like(noise)
        places[np.lexsort((noise, block_order[blocks]))] = np.arange(self.num_tokens)
        return places / self.num_tokens

    def _blocks(self) -> npt.NDArray[np.intp]:
        """The number of every token's block (n,), for blocks at a random offset."""
        offsets = self.R.randint(self.block_size, size=3)
        along = [(np.arange(n) + first) // self.block_size for n, first in zip(self.grid_size, offsets, strict=True)]
        spans = [axis[-1] + 1 for axis in along]
        return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), spans).ravel()
