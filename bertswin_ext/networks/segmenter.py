"""BertsWin encoder with a segmentation decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bertswin_ext.networks.backbone import BertsWinBackbone, channels_first, initialize_weights
from bertswin_ext.networks.segmentation_decoders import DecoderKind, build_decoder
from bertswin_ext.networks.stems import StemKind

__all__ = ["BertsWinSegmenter"]


class BertsWinSegmenter(BertsWinBackbone):
    """Segmentation network on the stem and encoder that `BertsWinMAE` pre-trains; their weights have the same names.

    Everything under ``decoder.`` is new; ``stem.`` and ``encoder.`` come from pre-training.

    Args:
        img_size: voxels per axis of the training cube, an int or (i, j, k), divisible by ``patch_size``.
        patch_size: edge of a cubic patch in voxels, a power of two from 2 to 64.
        in_channels: channels of the volume.
        out_channels: number of classes, background included.
        hidden_size: width of a token, divisible by 6 and by ``num_heads``.
        num_layers: Swin blocks, all at one resolution; every second one is shifted.
        num_heads: attention heads.
        window_size: tokens of an attention window per axis, an int or (i, j, k), at most the grid.
        stem_channels: width of the first stage of the stem, a multiple of 4.
        stem: ``"non_overlapping"`` (strict) or ``"overlapping"`` (the paper's standard stem; it has to be tuned for
            whole volumes, and its stages cannot serve as skips).
        decoder: ``"unetr"`` (full resolution, needs the non-overlapping stem), or one of the paper's probes,
            ``"linear"`` and ``"two_layer"``.
        decoder_channels: channels of the ``"unetr"`` decoder at full size; they double with every halving.
        dropout: chance of a channel of the decoder to be dropped in training; the weights' names do not depend on it.

    Shape:
        - Input: (b, in_channels, i, j, k) of any size divisible by ``patch_size``.
        - Output: logits (b, out_channels, i, j, k).

    Raises:
        ValueError: an argument breaks one of the rules above; the message names it.

    Source: arXiv 2512.21769, section 3, for encoder and probes; `UNETRDecoder` is ours.

    Example:
        >>> small = {"patch_size": 8, "hidden_size": 48, "num_layers": 2, "num_heads": 4, "window_size": 2}
        >>> network = BertsWinSegmenter(img_size=32, **small)
        >>> network(torch.zeros(1, 1, 32, 40, 48)).shape
        torch.Size([1, 3, 32, 40, 48])
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
        window_size: int | Sequence[int] = 7,
        stem_channels: int = 48,
        stem: StemKind = "non_overlapping",
        decoder: DecoderKind = "unetr",
        decoder_channels: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            img_size, patch_size, in_channels, hidden_size, num_layers, num_heads, window_size, stem_channels, stem
        )
        if decoder == "unetr" and stem == "overlapping":
            raise ValueError(
                "decoder='unetr' takes the stem's stages as skips and needs stem='non_overlapping', got 'overlapping'. "
                "Tune a non-overlapping stem first (bundles/pretrain/configs/tune_stem.json), or choose "
                "decoder='linear' or 'two_layer', which take both stems."
            )
        self.apply(initialize_weights)
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
        self.out_channels = out_channels
        self.arguments |= {
            "out_channels": out_channels,
            "decoder": decoder,
            "decoder_channels": decoder_channels,
            "dropout": dropout,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of volumes.

        Args:
            x: (b, in_channels, i, j, k), sizes divisible by the patch size.

        Returns:
            (b, out_channels, i, j, k).

        Raises:
            ValueError: the volume has another number of axes or channels, or a size that the patch does not divide.
        """
        tokens, skips = self._embed_volume(x)
        _, kept = self.encoder.forward_intermediates(tokens, self.decoder.wanted_blocks)
        return self.decoder(x, skips, [channels_first(features) for features in kept])
