"""Decoders of the segmenters: features on the grid, with the stem's stages as skips, to logits at full size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from monai.networks.blocks import Convolution, UpSample
from torch import nn

from bertswin_ext.networks.backbone import initialize_weights

__all__ = [
    "DecoderKind",
    "LinearDecoder",
    "SegmentationDecoder",
    "TwoLayerDecoder",
    "UNETRDecoder",
    "build_decoder",
    "spaced_blocks",
]

DecoderKind = Literal["unetr", "linear", "two_layer"]

_NUM_FEATURES = 4
_WIDEST = 256


def spaced_blocks(num_layers: int, count: int = _NUM_FEATURES) -> tuple[int, ...]:
    """Encoder blocks at even distances, the last one among them; fewer where there are not as many.

    Example:
        >>> spaced_blocks(12), spaced_blocks(2)
        ((2, 5, 8, 11), (0, 1))
    """
    return tuple(sorted({-(-step * num_layers // count) - 1 for step in range(1, count + 1)}))


class SegmentationDecoder(nn.Module):
    """What a segmenter asks of a decoder.

    Args:
        wanted_blocks: encoder blocks, counted from 0, whose output `forward` gets; the last block is the last of them.
    """

    def __init__(self, wanted_blocks: Sequence[int]) -> None:
        super().__init__()
        self.wanted_blocks = tuple(wanted_blocks)

    def forward(
        self, image: torch.Tensor, skips: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Label every voxel.

        Args:
            image: volumes (b, c, i, j, k).
            skips: the stem's stages at 1/2, 1/4, ... 1/p of the volume's size, finest first.
            features: output of ``wanted_blocks``, (b, h, i/p, j/p, k/p) each.

        Returns:
            Logits (b, out_channels, i, j, k).
        """
        raise NotImplementedError("A decoder computes its logits in `forward`.")


class LinearDecoder(SegmentationDecoder):
    """Linear probe: a pointwise convolution of the last features, and trilinear upsampling.

    Args:
        hidden_size: width of the features.
        num_layers: blocks of the encoder.
        out_channels: number of classes, background included.
        patch_size: edge of a patch in voxels.
        dropout: chance of a channel of the features to be dropped in training.
    """

    def __init__(
        self, hidden_size: int, num_layers: int, out_channels: int, patch_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__([num_layers - 1])
        self.dropout = nn.Dropout3d(dropout)
        self.head = _head(hidden_size, out_channels)
        self.upsample = _trilinear(patch_size)

    def forward(
        self, image: torch.Tensor, skips: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits from the last features; see `SegmentationDecoder`."""
        return self.upsample(self.head(self.dropout(features[-1])))


class TwoLayerDecoder(SegmentationDecoder):
    """Probe with one hidden layer: 3x3x3 convolution, batch norm, ReLU, pointwise convolution, trilinear upsampling.

    Args:
        hidden_size: width of the features; the hidden layer has a quarter of it, at least 32.
        num_layers: blocks of the encoder.
        out_channels: number of classes, background included.
        patch_size: edge of a patch in voxels.
        dropout: chance of a channel of the hidden layer to be dropped in training.
    """

    def __init__(
        self, hidden_size: int, num_layers: int, out_channels: int, patch_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__([num_layers - 1])
        width = max(32, hidden_size // 4)
        self.hidden = _conv(hidden_size, width, dropout, norm="batch", act="relu")
        self.head = _head(width, out_channels)
        self.upsample = _trilinear(patch_size)

    def forward(
        self, image: torch.Tensor, skips: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits from the last features; see `SegmentationDecoder`."""
        return self.upsample(self.head(self.hidden(features[-1])))


class UNETRDecoder(SegmentationDecoder):
    """Full-resolution decoder: doubles the size level by level, joined by the stem's stages and at last by the image.

    Level l has 1/2^l of the volume's size and ``decoder_channels`` * 2^l channels, at most 256. Up to half the size a
    level has two convolutions. At full size, where time and memory go, it has one, and one of the image.

    Args:
        hidden_size: width of the features.
        num_layers: blocks of the encoder; the outputs of four of them, evenly spaced, are fused at the coarsest level.
        out_channels: number of classes, background included.
        patch_size: edge of a patch in voxels, a power of two.
        in_channels: channels of the volume.
        stem_channels: width of the first stage of the stem.
        decoder_channels: channels at full size.
        dropout: chance of a channel to be dropped after every convolution in training.

    Source: UNETR, arXiv 2103.10504. Where this decoder differs: the skips are the stages of the patch stem, not
    upsampled tokens; the tokens of all blocks meet at the coarsest level, each with its own layer norm, because the
    encoder has no final one; and the full size has few channels.

    Example:
        >>> decoder = UNETRDecoder(hidden_size=12, num_layers=2, out_channels=3, patch_size=4, stem_channels=4)
        >>> image, coarse = torch.zeros(1, 1, 8, 12, 16), torch.zeros(1, 12, 2, 3, 4)
        >>> skips = [torch.zeros(1, 4, 4, 6, 8), torch.zeros(1, 8, 2, 3, 4)]
        >>> decoder(image, skips, [coarse, coarse]).shape
        torch.Size([1, 3, 8, 12, 16])
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        out_channels: int,
        patch_size: int,
        in_channels: int = 1,
        stem_channels: int = 48,
        decoder_channels: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spaced_blocks(num_layers))
        coarsest = patch_size.bit_length() - 1
        widths = [min(decoder_channels * 2**level, _WIDEST) for level in range(coarsest + 1)]
        skip_widths = [stem_channels * 2**stage for stage in range(coarsest)]
        self.fuse = _Fuse(hidden_size, len(self.wanted_blocks), skip_widths[-1], widths[-1])
        self.ups = nn.ModuleList(
            _Up(widths[level + 1], skip_widths[level - 1], widths[level], 2, dropout)
            for level in reversed(range(1, coarsest))
        )
        self.image = _conv(in_channels, widths[0], dropout)
        self.full = _Up(widths[1], widths[0], widths[0], 1, dropout)
        self.head = _head(widths[0], out_channels)

    def forward(
        self, image: torch.Tensor, skips: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits from the features, the stem's stages and the image; see `SegmentationDecoder`."""
        *finer, coarsest = skips
        x = self.fuse(features, coarsest)
        for up, skip in zip(self.ups, reversed(finer), strict=True):
            x = up(x, skip)
        return self.head(self.full(x, self.image(image)))


def build_decoder(
    kind: DecoderKind,
    *,
    hidden_size: int,
    num_layers: int,
    out_channels: int,
    patch_size: int,
    in_channels: int,
    stem_channels: int,
    decoder_channels: int,
    dropout: float,
) -> SegmentationDecoder:
    """Decoder of a kind; see the classes for the arguments.

    Raises:
        ValueError: unknown ``kind``, fewer than two classes, no channels, or ``dropout`` outside [0, 1).
    """
    if kind not in get_args(DecoderKind):
        raise ValueError(f"`decoder` must be one of {', '.join(map(repr, get_args(DecoderKind)))}, got {kind!r}.")
    if out_channels < 2:
        raise ValueError(f"`out_channels` must be at least 2 (background and a class), got {out_channels}.")
    if decoder_channels < 1:
        raise ValueError(f"`decoder_channels` must be at least 1, got {decoder_channels}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1), got {dropout}.")
    if kind == "unetr":
        full = (in_channels, stem_channels, decoder_channels)
        return UNETRDecoder(hidden_size, num_layers, out_channels, patch_size, *full, dropout=dropout)
    probe = LinearDecoder if kind == "linear" else TwoLayerDecoder
    return probe(hidden_size, num_layers, out_channels, patch_size, dropout)


class _Fuse(nn.Module):
    """Features of several blocks and the stem's last stage to one map at the size of the grid."""

    def __init__(self, hidden_size: int, num_features: int, skip_width: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(num_features))
        self.linear = nn.Linear(num_features * hidden_size + skip_width, width)
        self.act = nn.LeakyReLU(inplace=True)
        self.linear.apply(initialize_weights)

    def forward(self, features: Sequence[torch.Tensor], skip: torch.Tensor) -> torch.Tensor:
        """Features (b, h, gi, gj, gk) and skip (b, s, gi, gj, gk) to (b, width, gi, gj, gk)."""
        normed = [norm(feature.movedim(1, -1)) for norm, feature in zip(self.norms, features, strict=True)]
        return self.act(self.linear(torch.cat([*normed, skip.movedim(1, -1)], dim=-1)).movedim(-1, 1))


class _Up(nn.Module):
    """Doubles the size, joins the skip of that size, and convolves."""

    def __init__(self, in_channels: int, skip_width: int, width: int, num_convs: int, dropout: float) -> None:
        super().__init__()
        self.up = UpSample(3, in_channels, width, scale_factor=2, mode="deconv")
        widths = [width + skip_width] + [width] * num_convs
        self.convs = nn.Sequential(*(_conv(before, width, dropout) for before in widths[:-1]))
        # every voxel of the output has one weight per input channel, whatever the kernel
        nn.init.normal_(self.up.deconv.weight, std=(2 / in_channels) ** 0.5)
        nn.init.zeros_(self.up.deconv.bias)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(b, in_channels, i, j, k) and the skip (b, s, 2i, 2j, 2k) to (b, width, 2i, 2j, 2k)."""
        return self.convs(torch.cat([self.up(x), skip], dim=1))


def _conv(
    in_channels: int, out_channels: int, dropout: float, norm: str = "instance", act: str = "leakyrelu"
) -> Convolution:
    """3x3x3 convolution, affine norm, activation in place, dropout of whole channels."""
    conv = Convolution(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        adn_ordering="NAD",
        norm=(norm, {"affine": True}),
        act=(act, {"inplace": True}),
        dropout=dropout,
        dropout_dim=3,
        bias=False,
    )
    conv.apply(initialize_weights)
    return conv


def _head(in_channels: int, out_channels: int) -> nn.Conv3d:
    """Pointwise convolution to the logits, which start small and equal for all classes on average."""
    head = nn.Conv3d(in_channels, out_channels, kernel_size=1)
    head.apply(initialize_weights)
    nn.init.kaiming_normal_(head.weight, nonlinearity="linear")
    return head


def _trilinear(patch_size: int) -> nn.Upsample:
    """Tokens to voxels."""
    return nn.Upsample(scale_factor=patch_size, mode="trilinear", align_corners=False)
