"""Convolutional patch stems: voxels of a patch to one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

__all__ = ["PatchStem", "StemKind", "split_patches"]

StemKind = Literal["overlapping", "non_overlapping"]

_NUM_GROUPS = 4
_KERNEL_AND_PADDING = {"overlapping": (3, 1), "non_overlapping": (2, 0)}


def split_patches(x: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut a volume into its patches, tokens in C order of the grid (``gi`` slowest).

    Args:
        x: volume (b, c, i, j, k), every spatial size divisible by ``patch_size``.
        patch_size: edge of a cubic patch in voxels.

    Returns:
        Patches (b, n, c, p, p, p).
    """
    p = patch_size
    return rearrange(x, "b c (gi p) (gj q) (gk r) -> b (gi gj gk) c p q r", p=p, q=p, r=p)


class PatchStem(nn.Module):
    """log2(p) stages of convolution, group norm and GELU that halve the size, then a projection to the token.

    Args:
        in_channels: channels of the volume.
        hidden_size: width of a token.
        patch_size: edge of a cubic patch in voxels, a power of two.
        stem_channels: width of the first stage, divisible by 4; it doubles with every stage.
        kind: ``"overlapping"`` has kernel 3, stride 2, padding 1 (the paper's "standard" stem);
            ``"non_overlapping"`` has kernel 2, stride 2 (the paper's "strict" stem), whose receptive field and
            norm statistics never leave the patch, so that running it on a volume equals running it per patch.

    Raises:
        ValueError: ``stem_channels`` is not a positive multiple of 4, or ``kind`` is unknown.

    Source: arXiv 2512.21769, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        patch_size: int,
        stem_channels: int = 48,
        kind: StemKind = "overlapping",
    ) -> None:
        super().__init__()
        if kind not in _KERNEL_AND_PADDING:
            raise ValueError(f"`stem` must be 'overlapping' or 'non_overlapping', got {kind!r}.")
        if stem_channels < 1 or stem_channels % _NUM_GROUPS:
            raise ValueError(
                f"`stem_channels` must be a positive multiple of {_NUM_GROUPS} (group norm), got {stem_channels}."
            )
        self.patch_size = patch_size
        self.kind = kind
        widths = [stem_channels * 2**s for s in range(patch_size.bit_length() - 1)]
        kernel_size, padding = _KERNEL_AND_PADDING[kind]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, kernel_size, stride=2, padding=padding, bias=False),
                nn.GroupNorm(_NUM_GROUPS, after),
                nn.GELU(),
            )
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.projection = nn.Conv3d(widths[-1], hidden_size, kernel_size=1)

    def forward(self, x: torch.Tensor, single: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run all stages on whatever is given: patches, or a volume.

        Args:
            x: (b, c, i, j, k).
            single: whether these are single patches (m, c, p, p, p), whose last stage is computed as a linear layer.

        Returns:
            The projection (b, h, i/p, j/p, k/p) and the output of every stage, finest first.
        """
        skips = []
        for stage in self.stages[:-1]:
            x = stage(x)
            skips.append(x)
        last = self.stages[-1]
        x = _single_token(last, x) if single else last(x)
        return self.projection(x), [*skips, x]

    def embed_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """Embed every patch on its own.

        Args:
            patches: any number of patches (m, c, p, p, p).

        Returns:
            Tokens (m, h).
        """
        return self(patches, single=True)[0].flatten(1)

    def embed_volume(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Embed a whole volume.

        Args:
            x: (b, c, i, j, k), spatial sizes divisible by the patch size.

        Returns:
            Grid of tokens (b, h, gi, gj, gk) and the stages' outputs at 1/2, 1/4, ... of the input size.
        """
        if self.kind == "overlapping":
            return self(x)
        grid = [size // self.patch_size for size in x.shape[2:]]
        tokens, skips = self(split_patches(x, self.patch_size).flatten(0, 1), single=True)
        return _join(tokens, grid), [_join(skip, grid) for skip in skips]


def _single_token(stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A stage that takes (m, c, 2, 2, 2) to (m, c, 1, 1, 1), its convolution as a matrix product."""
    convolution, norm, act = cast("Sequence[Any]", stage)
    # what an overlapping kernel has before these voxels lies on the padding
    kernel = convolution.weight[..., -2:, -2:, -2:]
    return cast("torch.Tensor", act(norm(F.linear(x.flatten(1), kernel.flatten(1)))))[..., None, None, None]


def _join(patches: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Put (b*n, c, p, p, p) back on the grid: (b, c, gi*p, gj*p, gk*p)."""
    gi, gj, gk = grid
    pattern = "(b gi gj gk) c p q r -> b c (gi p) (gj q) (gk r)"
    return rearrange(patches, pattern, gi=gi, gj=gj, gk=gk)
