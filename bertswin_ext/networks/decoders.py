"""Decoders: a grid of tokens back to voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import nn

__all__ = ["ReconstructionDecoder", "upsampling_strides"]

_NUM_STAGES = 3
_WIDTHS = (64, 16)
_GROUPS = (8, 4)


def upsampling_strides(patch_size: int) -> tuple[int, int, int]:
    """Strides of the three stages: powers of two whose product is the patch size, the first ones largest.

    Example:
        >>> upsampling_strides(16), upsampling_strides(2)
        ((4, 2, 2), (2, 1, 1))
    """
    doublings = patch_size.bit_length() - 1
    first, second, third = (2 ** len(range(stage, doublings, _NUM_STAGES)) for stage in range(_NUM_STAGES))
    return first, second, third


class ReconstructionDecoder(nn.Module):
    """Linear embedding and three transposed convolutions that put the voxels of every token back.

    Args:
        hidden_size: width of the encoder's tokens.
        decoder_hidden_size: width after the embedding.
        patch_size: edge of a patch in voxels, a power of two up to 64.
        out_channels: channels of the volume.

    Source: arXiv 2512.21769, section 3. Where kernel and stride are equal, a transposed convolution is a matrix product
    of the tokens, and neither group norm nor GELU asks where a voxel lies. So the stages run on (b, channels, places)
    with the places in the order in which they arise, and the voxels are put in their order once, at the end.
    """

    def __init__(self, hidden_size: int, decoder_hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(hidden_size, decoder_hidden_size)
        widths = [decoder_hidden_size, *_WIDTHS, out_channels]
        self._strides = upsampling_strides(patch_size)
        layers: list[nn.Module] = []
        for stage, stride in enumerate(self._strides):
            layers.append(_upsample(widths[stage], widths[stage + 1], stride))
            if stage < len(_GROUPS):
                layers += [nn.GroupNorm(_GROUPS[stage], widths[stage + 1]), nn.GELU()]
        self.head = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grid of tokens (b, gi, gj, gk, h) to a volume (b, c, i, j, k)."""
        grid = x.shape[1:4]
        x = self.embed(x).flatten(1, 3).transpose(1, 2)
        for layer in self.head:
            x = _upsampled(layer, x) if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d) else layer(x)
        return _in_place(x, grid, self._strides)


def _upsample(in_channels: int, out_channels: int, stride: int) -> nn.Conv3d | nn.ConvTranspose3d:
    """Transposed convolution without overlap, or a pointwise one where nothing grows."""
    if stride == 1:
        return nn.Conv3d(in_channels, out_channels, kernel_size=1)
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size=stride, stride=stride)


def _upsampled(layer: nn.Conv3d | nn.ConvTranspose3d, x: torch.Tensor) -> torch.Tensor:
    """What a layer of `_upsample` makes of places (b, in, n): (b, out, s*s*s * n), the new places before the old."""
    kernel = layer.weight.flatten(1)
    matrix = kernel.t() if isinstance(layer, nn.ConvTranspose3d) else kernel
    bias = cast("torch.Tensor", layer.bias).repeat_interleave(matrix.shape[0] // layer.out_channels)
    x = torch.baddbmm(bias[:, None], matrix[None].expand(x.shape[0], -1, -1), x)
    return x.unflatten(1, (layer.out_channels, -1)).flatten(2)


def _in_place(x: torch.Tensor, grid: Sequence[int], strides: tuple[int, int, int]) -> torch.Tensor:
    """Places (b, c, third stage, second, first, token) to a volume (b, c, i, j, k)."""
    gi, gj, gk = grid
    p, q, r = strides
    # two copies with long runs are faster than one with runs of two voxels
    pattern = "b c (ri rj rk qi qj qk pi pj pk n) -> b c (pi qi ri) (pj qj rj) (pk qk rk) n"
    x = rearrange(x, pattern, pi=p, pj=p, pk=p, qi=q, qj=q, qk=q, ri=r, rj=r, rk=r).contiguous()
    return rearrange(x, "b c i j k (gi gj gk) -> b c (gi i) (gj j) (gk k)", gi=gi, gj=gj, gk=gk)
