"""BertsWin: a masked autoencoder that keeps the full 3D grid of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import nn

from bertswin_ext.networks.decoders import ReconstructionDecoder
from bertswin_ext.networks.encoder import SwinEncoder
from bertswin_ext.networks.masking import RatioOf, choose_visible
from bertswin_ext.networks.position import sincos_position_table
from bertswin_ext.networks.stems import PatchStem, StemKind, split_patches

__all__ = ["BertsWinMAE"]

_LARGEST_PATCH = 64


class BertsWinMAE(nn.Module):
    """Masked autoencoder whose Swin encoder sees visible *and* mask tokens on the full grid.

    Args:
        img_size: voxels per axis of the training cube, an int or (i, j, k), divisible by ``patch_size``.
        patch_size: edge of a cubic patch in voxels, a power of two from 2 to 64.
        in_channels: channels of the volume.
        hidden_size: width of a token, divisible by 6 and by ``num_heads``.
        num_layers: Swin blocks, all at one resolution; every second one is shifted.
        num_heads: attention heads.
        window_size: tokens of an attention window per axis, an int or (i, j, k), at most the grid.
        decoder_hidden_size: width of the decoder's embedding.
        stem_channels: width of the first stage of the stem, a multiple of 4.
        masking_ratio: share of the tokens hidden from the encoder, in [0, 1).
        stem: ``"overlapping"`` (the paper's standard stem) or ``"non_overlapping"`` (strict).
        ratio_of: what the masking ratio counts when ``valid`` is given: the ``"valid"`` tokens of each sample, or
            ``"all"`` tokens as the reference code does.

    Shape:
        - b batch, c channels, i j k voxels, gi gj gk grid of tokens, n = gi * gj * gk tokens in C order, h hidden size.

    Raises:
        ValueError: an argument breaks one of the rules above; the message names it.

    Source: arXiv 2512.21769, section 3. Where this network differs from the authors' code: hidden tokens of a window
    are masked with -inf instead of -100, and the masking ratio counts valid tokens (``ratio_of``).

    Example:
        >>> network = BertsWinMAE(img_size=32, patch_size=8, hidden_size=48, num_layers=2, num_heads=4, window_size=2)
        >>> output = network(torch.zeros(1, 1, 32, 32, 32))
        >>> output["reconstruction"].shape, output["masked"].sum().item()
        (torch.Size([1, 1, 32, 32, 32]), 48)
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
        decoder_hidden_size: int = 512,
        stem_channels: int = 48,
        masking_ratio: float = 0.75,
        stem: StemKind = "overlapping",
        ratio_of: RatioOf = "valid",
    ) -> None:
        super().__init__()
        self.patch_size = _checked_patch_size(patch_size)
        self.img_size = _checked_img_size(img_size, self.patch_size)
        self.grid_size = cast("tuple[int, int, int]", tuple(size // self.patch_size for size in self.img_size))
        self.window_size = _checked_window_size(window_size, self.grid_size)
        _check_widths(hidden_size, num_heads, num_layers, in_channels, decoder_hidden_size)
        self.masking_ratio = _checked_masking_ratio(masking_ratio, self.grid_size)
        if ratio_of not in get_args(RatioOf):
            raise ValueError(f"`ratio_of` must be 'valid' or 'all', got {ratio_of!r}.")
        self.ratio_of = ratio_of
        self.in_channels = in_channels
        self.hidden_size = hidden_size
        self.arguments = {
            "img_size": list(self.img_size),
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "window_size": list(self.window_size),
            "decoder_hidden_size": decoder_hidden_size,
            "stem_channels": stem_channels,
            "masking_ratio": masking_ratio,
            "stem": stem,
            "ratio_of": ratio_of,
        }

        self.stem = PatchStem(in_channels, hidden_size, self.patch_size, stem_channels, stem)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        position_table = sincos_position_table(self.grid_size, hidden_size)
        self.register_buffer("position_table", position_table, persistent=False)
        self.encoder = SwinEncoder(self.grid_size, hidden_size, num_layers, num_heads, self.window_size)
        self.decoder = ReconstructionDecoder(hidden_size, decoder_hidden_size, self.patch_size, in_channels)
        self.apply(_initialize)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, x: torch.Tensor, valid: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Hide most of a volume and reconstruct all of it.

        Args:
            x: volumes (b, c, i, j, k) of the size the network was built for.
            valid: (b, n) bool, False for tokens outside the field of view; they are always hidden.
            noise: (b, n); the tokens with the lowest noise stay visible. Drawn uniformly when not given.

        Returns:
            ``reconstruction`` (b, c, i, j, k) and ``masked`` (b, n) bool, True where the encoder saw a mask token.

        Raises:
            ValueError: a tensor has another shape than stated.
        """
        self._check_volume(x, self.img_size)
        num_samples, num_tokens = x.shape[0], self.position_table.shape[1]
        if noise is None:
            noise = torch.rand(num_samples, num_tokens, device=x.device)
        _check_tokens("noise", noise, (num_samples, num_tokens), noise.dtype)
        _check_tokens("valid", valid, (num_samples, num_tokens), torch.bool)
        fixed_length = torch.compiler.is_compiling()
        visible = choose_visible(noise, self.masking_ratio, valid, self.ratio_of, fixed_length)
        patches = split_patches(x, self.patch_size)[visible.sample, visible.token]
        embedded = self.stem.embed_patches(patches)
        mask_token = self.mask_token.to(embedded.dtype)
        if fixed_length:
            embedded = torch.where(visible.live[:, None], embedded, mask_token[0])
        tokens = mask_token.repeat(num_samples, num_tokens, 1)
        tokens = tokens.index_put((visible.sample, visible.token), embedded)
        masked = torch.ones(num_samples, num_tokens, dtype=torch.bool, device=x.device)
        masked = masked.index_put((visible.sample, visible.token), ~visible.live)
        encoded = self.encoder(self._place(tokens, self.grid_size))
        return {"reconstruction": self.decoder(encoded), "masked": masked}

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Stem output of the whole volume (b, c, i, j, k), before the positions: (b, n, h)."""
        self._check_volume(x)
        return self.stem.embed_volume(x)[0].flatten(2).transpose(1, 2)

    def encode_patches(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Encode every patch through the stem one by one, as in pre-training, with nothing hidden.

        Args:
            x: volumes (b, c, i, j, k), sizes divisible by the patch size.
            valid: (b, n) bool; invalid tokens are replaced by the mask token.

        Returns:
            Features (b, h, gi, gj, gk).
        """
        self._check_volume(x)
        patches = split_patches(x, self.patch_size)
        tokens = self.stem.embed_patches(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        if valid is not None:
            _check_tokens("valid", valid, (patches.shape[0], patches.shape[1]), torch.bool)
            tokens = torch.where(valid[..., None], tokens, self.mask_token.to(tokens.dtype))
        return _channels_first(self.encoder(self._place(tokens, self._grid_of(x))))

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
        features = _channels_first(self.encoder(embedded))
        return (features, skips) if return_skips else features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Features of a volume of any size divisible by the patch size: (b, h, gi, gj, gk)."""
        return _channels_first(self.encoder(self._embed_volume(x)[0]))

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
        return _channels_first(final), [_channels_first(features) for features in kept]

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Reconstruct a volume (b, c, i, j, k) from features (b, h, gi, gj, gk)."""
        return self.decoder(features.movedim(1, -1))

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


def _initialize(module: nn.Module) -> None:
    """Initial weights; layers not named here keep their framework's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    """(b, gi, gj, gk, h) to (b, h, gi, gj, gk)."""
    return x.movedim(-1, 1)


def _checked_patch_size(patch_size: int) -> int:
    """A power of two from 2 to 64."""
    if not isinstance(patch_size, int) or not 2 <= patch_size <= _LARGEST_PATCH or patch_size & (patch_size - 1):
        raise ValueError(
            f"`patch_size` must be one power of two from 2 to {_LARGEST_PATCH}, got {patch_size}. Use 8, 16 or 32."
        )
    return patch_size


def _checked_img_size(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int, int]:
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


def _checked_masking_ratio(masking_ratio: float, grid_size: tuple[int, int, int]) -> float:
    """Leaves at least one token visible."""
    num_tokens = grid_size[0] * grid_size[1] * grid_size[2]
    if not 0 <= masking_ratio < 1 or int(num_tokens * (1 - masking_ratio)) < 1:
        raise ValueError(
            f"`masking_ratio` must be in [0, 1) and leave at least one of the {num_tokens} tokens visible, "
            f"got {masking_ratio}."
        )
    return masking_ratio


def _check_widths(
    hidden_size: int, num_heads: int, num_layers: int, in_channels: int, decoder_hidden_size: int
) -> None:
    """The hidden size serves three sine-cosine axes and all heads."""
    if hidden_size % 6 or num_heads < 1 or hidden_size % num_heads:
        raise ValueError(
            f"`hidden_size` must be divisible by 6 (positions) and by `num_heads`, got {hidden_size} with "
            f"{num_heads} heads."
        )
    for name, width in (("in_channels", in_channels), ("decoder_hidden_size", decoder_hidden_size)):
        if width < 1:
            raise ValueError(f"`{name}` must be at least 1, got {width}.")
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(
            f"`num_layers` must be one positive int: BertsWin has a single encoder stage, got {num_layers}."
        )


def _check_tokens(name: str, tensor: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """One entry per token, of the right type."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"`{name}` must be (batch, tokens) = {shape} of {dtype}, got {found}.")


def _per_axis(name: str, value: int | Sequence[int]) -> tuple[int, int, int]:
    """An int for all axes, or three of them."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 3 or not all(isinstance(entry, int) for entry in values):
        raise ValueError(f"`{name}` must be an int or three ints (i, j, k), got {value}.")
    return values[0], values[1], values[2]
