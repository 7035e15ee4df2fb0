"""Decoders: a grid of tokens back to voxels."""

from __future__ import annotations

import torch
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

    Source: arXiv 2512.21769, section 3.
    """

    def __init__(self, hidden_size: int, decoder_hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(hidden_size, decoder_hidden_size)
        widths = [decoder_hidden_size, *_WIDTHS, out_channels]
        layers: list[nn.Module] = []
        for stage, stride in enumerate(upsampling_strides(patch_size)):
            layers.append(_upsample(widths[stage], widths[stage + 1], stride))
            if stage < len(_GROUPS):
                layers += [nn.GroupNorm(_GROUPS[stage], widths[stage + 1]), nn.GELU()]
        self.head = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grid of tokens (b, gi, gj, gk, h) to a volume (b, c, i, j, k)."""
        return self.head(self.embed(x).movedim(-1, 1))


def _upsample(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Transposed convolution without overlap, or a pointwise one where nothing grows."""
    if stride == 1:
        return nn.Conv3d(in_channels, out_channels, kernel_size=1)
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size=stride, stride=stride)
