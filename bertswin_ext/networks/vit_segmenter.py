"""The baseline: MONAI's ViT encoder with the decoders of `BertsWinSegmenter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import PatchEmbeddingBlock, TransformerBlock
from torch import nn

from bertswin_ext.networks.backbone import check_widths, checked_img_size, checked_patch_size
from bertswin_ext.networks.segmentation_decoders import DecoderKind, SegmentationDecoder, build_decoder
from bertswin_ext.networks.stems import PatchStem

__all__ = ["ViTSegmenter"]


class ViTSegmenter(nn.Module):
    """Segmentation network on the encoder that `ViTMAE` pre-trains; their weights have the same names.

    Everything under ``decoder.`` is new; ``patch_embedding.``, ``cls_token`` and ``blocks.`` come from pre-training.
    A ViT embeds a patch in one step, so the ``"unetr"`` decoder brings a convolutional stem of its own for the skips.

    Args:
        img_size: voxels per axis, an int or (i, j, k), divisible by ``patch_size``; the only size that `forward` takes.
        patch_size: edge of a cubic patch in voxels, a power of two from 2 to 64.
        in_channels: channels of the volume.
        out_channels: number of classes, background included.
        hidden_size: width of a token, divisible by 6 and by ``num_heads``.
        num_layers: transformer blocks.
        num_heads: attention heads.
        mlp_dim: hidden width of a block's MLP, four times ``hidden_size`` when not given.
        stem_channels: width of the first stage of the decoder's stem, a multiple of 4.
        decoder: ``"unetr"``, ``"linear"`` or ``"two_layer"``, as in `BertsWinSegmenter`.
        decoder_channels: channels of the ``"unetr"`` decoder at full size; they double with every halving.
        dropout: chance of a channel of the decoder to be dropped in training; the weights' names do not depend on it.

    Shape:
        - Input: (b, in_channels, *img_size).
        - Output: logits (b, out_channels, *img_size).

    Raises:
        ValueError: an argument breaks one of the rules above; the message names it.

    Source: the encoder of `monai.networks.nets.MaskedAutoEncoderViT` with its defaults.

    Example:
        >>> network = ViTSegmenter(img_size=32, patch_size=8, hidden_size=48, num_layers=2, num_heads=4)
        >>> network(torch.zeros(1, 1, 32, 32, 32)).shape
        torch.Size([1, 3, 32, 32, 32])
    """

    def __init__(
        self,
        img_size: int | Sequence[int],
        patch_size: int = 16,
        in_channels: int = 1,
        out_channels: int = 3,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int | None = None,
        stem_channels: int = 48,
        decoder: DecoderKind = "unetr",
        decoder_channels: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = checked_patch_size(patch_size)
        self.img_size = checked_img_size(img_size, self.patch_size)
        self.grid_size = tuple(size // self.patch_size for size in self.img_size)
        self.in_channels = in_channels
        self.out_channels = out_channels
        mlp_dim = 4 * hidden_size if mlp_dim is None else mlp_dim
        self.arguments: dict[str, Any] = {
            "img_size": list(self.img_size),
            "patch_size": patch_size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "stem_channels": stem_channels,
            "decoder": decoder,
            "decoder_channels": decoder_channels,
            "dropout": dropout,
        }
        check_widths(hidden_size, num_heads, in_channels)
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1, got {num_layers}.")
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.patch_embedding = PatchEmbeddingBlock(
            in_channels, self.img_size, patch_size, hidden_size, num_heads, proj_type="conv", pos_embed_type="sincos"
        )
        blocks = [TransformerBlock(hidden_size, mlp_dim, num_heads) for _ in range(num_layers)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(hidden_size))
        self.decoder = build_decoder(
            decoder,
            hidden_size=hidden_size,
            num_layers=num_layers,
            out_channels=out_channels,
            patch_size=patch_size,
            in_channels=in_channels,
            stem_channels=stem_channels,
            decoder_channels=decoder_channels,
            dropout=dropout,
        )
        if decoder == "unetr":
            self.decoder = _DecoderWithStem(self.decoder, in_channels, patch_size, stem_channels)
        _freeze_unused(self.blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, out_channels, *img_size) of volumes (b, in_channels, *img_size).

        Raises:
            ValueError: the volume has another size or number of channels.
        """
        self._check_volume(x)
        return self.decoder(x, [], self._encode(x, self.decoder.wanted_blocks))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Normed features of the last block (b, h, gi, gj, gk), without the class token."""
        self._check_volume(x)
        return self._encode(x, [len(self.blocks) - 2])[0]

    def _encode(self, x: torch.Tensor, wanted_blocks: Sequence[int]) -> list[torch.Tensor]:
        """Output of chosen blocks (b, h, gi, gj, gk), the last block's after the final norm."""
        tokens = self.patch_embedding(x)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        *blocks, final_norm = self.blocks
        kept = []
        for layer, block in enumerate(blocks):
            tokens = block(tokens)
            if layer in wanted_blocks:
                kept.append(final_norm(tokens) if layer == len(blocks) - 1 else tokens)
        return [tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid_size) for tokens in kept]

    def _check_volume(self, x: torch.Tensor) -> None:
        """Refuse anything but (b, in_channels, *img_size)."""
        expected = (self.in_channels, *self.img_size)
        if x.ndim != 5 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"The input must be (batch, *{expected}), a ViT has one size only, got {tuple(x.shape)}. "
                "Use crops of this size, at inference a sliding window with this `roi_size`."
            )


class _DecoderWithStem(SegmentationDecoder):
    """Full-resolution decoder on the skips of its own stem."""

    def __init__(self, unetr: SegmentationDecoder, in_channels: int, patch_size: int, stem_channels: int) -> None:
        super().__init__(unetr.wanted_blocks)
        self.unetr = unetr
        self.stem = PatchStem(in_channels, 1, patch_size, stem_channels, "non_overlapping")
        # the ViT has its own tokens
        self.stem.add_module("projection", nn.Identity())

    def forward(
        self, image: torch.Tensor, skips: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits; ``skips`` are not looked at."""
        return self.unetr(image, self.stem.embed_volume(image)[1], features)


def _freeze_unused(blocks: nn.Module) -> None:
    """MONAI's blocks hold a norm that they do not use; as a parameter without gradient it would stop DDP."""
    for name, parameter in blocks.named_parameters():
        if "norm_cross_attn" in name:
            parameter.requires_grad_(False)
