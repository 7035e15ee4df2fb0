"""What every BertsWin network shares: patch stem, positions, and the Swin encoder on the full 3D grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from bertswin_ext.networks.encoder import SwinEncoder
from bertswin_ext.networks.position import sincos_position_table
from bertswin_ext.networks.stems import PatchStem, StemKind

__all__ = [
    "BertsWinBackbone",
    "channels_first",
    "check_widths",
    "checked_img_size",
    "checked_patch_size",
    "initialize_weights",
]

_LARGEST_PATCH = 64


class BertsWinBackbone(nn.Module):
    """Volume to a grid of features; `BertsWinMAE` and `BertsWinSegmenter` derive from it.

    Weights are the layers' defaults: a derived network calls `initialize_weights` when all its parts stand.

    Args:
        img_size: voxels per axis of the training cube, an int or (i, j, k), divisible by ``patch_size``.
        patch_size: edge of a cubic patch in voxels, a power of two from 2 to 64.
        in_channels: channels of the volume.
        hidden_size: width of a token, divisible by 6 and by ``num_heads``.
        num_layers: Swin blocks, all at one resolution; every second one is shifted.
        num_heads: attention heads.
        window_size: tokens of an attention window per axis, an int or (i, j, k), at most the grid.
        stem_channels: width of the first stage of the stem, a multiple of 4.
        stem: ``"overlapping"`` (the paper's standard stem) or ``"non_overlapping"`` (strict).
        activation_checkpointing: compute the blocks again in every backward pass instead of keeping their activations;
            a matter of memory, not of the network, so it is no part of ``arguments``.

    Attributes:
        grid_size: tokens per axis of the training cube.
        arguments: what the network was built with, for checkpoints; derived networks add theirs.

    Shape:
        - b batch, c channels, i j k voxels, gi gj gk grid of tokens, n = gi * gj * gk tokens in C order, h hidden size.

    Raises:
        ValueError: an argument breaks one of the rules above; the message names it.

    Source: arXiv 2512.21769, section 3.

    Example:
        >>> backbone = BertsWinBackbone(32, patch_size=8, hidden_size=48, num_layers=2, num_heads=4, window_size=2)
        >>> backbone.forward_features(torch.zeros(1, 1, 32, 40, 48)).shape
        torch.Size([1, 48, 4, 5, 6])
    """

    position_table: torch.Tensor

    def __init__(
        self,
        img_size: int | Sequence[int],
        patch_size: int = 16,
        in_channels: int = 1,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        window_size: int | Sequence[int] = 7,
        stem_channels: int = 48,
        stem: StemKind = "overlapping",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = checked_patch_size(patch_size)
        self.img_size = checked_img_size(img_size, self.patch_size)
        self.grid_size = cast("tuple[int, int, int]", tuple(size // self.patch_size for size in self.img_size))
        self.window_size = _checked_window_size(window_size, self.grid_size)
        check_widths(hidden_size, num_heads, in_channels)
        _check_num_layers(num_layers)
        self.in_channels = in_channels
        self.hidden_size = hidden_size
        self.arguments: dict[str, Any] = {
            "img_size": list(self.img_size),
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "window_size": list(self.window_size),
            "stem_channels": stem_channels,
            "stem": stem,
        }
        self.stem = PatchStem(in_channels, hidden_size, self.patch_size, stem_channels, stem)
        position_table = sincos_position_table(self.grid_size, hidden_size)
        self.register_buffer("position_table", position_table, persistent=False)
        self.encoder = SwinEncoder(
            self.grid_size, hidden_size, num_layers, num_heads, self.window_size, activation_checkpointing
        )

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Stem output of the whole volume (b, c, i, j, k), before the positions: (b, n, h)."""
        self._check_volume(x)
        return self.stem.embed_volume(x)[0].flatten(2).transpose(1, 2)

    def encode_volume(
        self, x: torch.Tensor, return_skips: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode with the stem convolved over the whole volume.

        Args:
            x: volumes (b, c, i, j, k) of any size divisible by the patch size.
            return_skips: also return the stem's stages at 1/2, 1/4, ... of the input size, finest first.

        Returns:
            Features (b, h, gi, gj, gk), with ``return_skips`` a tuple of them and the skips.

        Raises:
            ValueError: skips are asked from the overlapping stem, where they would mix neighbouring patches.
        """
        if return_skips and self.stem.kind != "non_overlapping":
            raise ValueError(
                "`return_skips=True` needs the stem whose stages do not cross patches, this network has "
                f"stem={self.stem.kind!r}. Build it with stem='non_overlapping'."
            )
        embedded, skips = self._embed_volume(x)
        features = channels_first(self.encoder(embedded))
        return (features, skips) if return_skips else features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Features of a volume of any size divisible by the patch size: (b, h, gi, gj, gk)."""
        return channels_first(self.encoder(self._embed_volume(x)[0]))

    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Features of a volume, and of chosen blocks on the way.

        Args:
            x: volumes (b, c, i, j, k) of any size divisible by the patch size.
            indices: blocks to keep, counted from 0, negative from the end; all when not given.

        Returns:
            Features of the last block and a list of the kept ones in the order of the blocks, (b, h, gi, gj, gk) each.

        Raises:
            ValueError: an index names no block.
        """
        num_layers = len(self.encoder.blocks)
        wanted = range(num_layers) if indices is None else indices
        bad = [index for index in wanted if not -num_layers <= index < num_layers]
        if bad:
            raise ValueError(f"`indices` must name blocks of a {num_layers}-block encoder, got {bad}.")
        embedded = self._embed_volume(x)[0]
        final, kept = self.encoder.forward_intermediates(embedded, [index % num_layers for index in wanted])
        return channels_first(final), [channels_first(features) for features in kept]

    def _embed_volume(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens on their grid (b, gi, gj, gk, h) with the stem convolved over the volume, and the stem's stages."""
        self._check_volume(x)
        tokens, skips = self.stem.embed_volume(x)
        return self._place(tokens.flatten(2).transpose(1, 2), self._grid_of(x)), skips

    def _place(self, tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Add the positions and lay tokens (b, n, h) out on their grid (b, gi, gj, gk, h)."""
        table = self.position_table
        if grid != self.grid_size:
            table = sincos_position_table(grid, self.hidden_size).to(table)
        return (tokens + table).unflatten(1, grid)

    def _grid_of(self, x: torch.Tensor) -> tuple[int, int, int]:
        """Tokens per axis of a volume."""
        i, j, k = (size // self.patch_size for size in x.shape[2:])
        return i, j, k

    def _check_volume(self, x: torch.Tensor, img_size: tuple[int, ...] | None = None) -> None:
        """Refuse anything but (b, in_channels, i, j, k) of the size asked for."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"The input must be (batch, {self.in_channels} channels, i, j, k), got {tuple(x.shape)}.")
        spatial = tuple(x.shape[2:])
        if img_size is not None and spatial != img_size:
            raise ValueError(
                f"The input must have the network's `img_size` {img_size}, got {spatial}. "
                "Crop the volume, or use `encode_volume` for other sizes."
            )
        if any(size == 0 or size % self.patch_size for size in spatial):
            raise ValueError(f"The input's sizes must be divisible by patch_size {self.patch_size}, got {spatial}.")


def initialize_weights(module: nn.Module) -> None:
    """Initial weights; layers not named here keep their framework's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def channels_first(x: torch.Tensor) -> torch.Tensor:
    """(b, gi, gj, gk, h) to (b, h, gi, gj, gk)."""
    return x.movedim(-1, 1)


def checked_patch_size(patch_size: int) -> int:
    """A power of two from 2 to 64."""
    if not isinstance(patch_size, int) or not 2 <= patch_size <= _LARGEST_PATCH or patch_size & (patch_size - 1):
        raise ValueError(
            f"`patch_size` must be one power of two from 2 to {_LARGEST_PATCH}, got {patch_size}. Use 8, 16 or 32."
        )
    return patch_size


def checked_img_size(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int, int]:
    """Positive multiples of the patch size."""
    sizes = _per_axis("img_size", img_size)
    if any(size < 1 or size % patch_size for size in sizes):
        raise ValueError(f"`img_size` must be divisible by patch_size {patch_size} on every axis, got {sizes}.")
    return sizes


def _checked_window_size(window_size: int | Sequence[int], grid_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """At most the grid."""
    windows = _per_axis("window_size", window_size)
    if any(not 1 <= window <= grid for window, grid in zip(windows, grid_size, strict=True)):
        raise ValueError(
            "`window_size` must lie between 1 and the token grid img_size / patch_size = "
            f"{grid_size} on every axis, got {windows}."
        )
    return windows


def check_widths(hidden_size: int, num_heads: int, in_channels: int) -> None:
    """The hidden size serves three sine-cosine axes and all heads."""
    if hidden_size % 6 or num_heads < 1 or hidden_size % num_heads:
        raise ValueError(
            f"`hidden_size` must be divisible by 6 (positions) and by `num_heads`, got {hidden_size} with "
            f"{num_heads} heads."
        )
    if in_channels < 1:
        raise ValueError(f"`in_channels` must be at least 1, got {in_channels}.")


def _check_num_layers(num_layers: int) -> None:
    """One int, not one per stage."""
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(
            f"`num_layers` must be one positive int: BertsWin has a single encoder stage, got {num_layers}."
        )


def _per_axis(name: str, value: int | Sequence[int]) -> tuple[int, int, int]:
    """An int for all axes, or three of them."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 3 or not all(isinstance(entry, int) for entry in values):
        raise ValueError(f"`{name}` must be an int or three ints (i, j, k), got {value}.")
    return values[0], values[1], values[2]
