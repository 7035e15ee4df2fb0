"""BertsWin: a masked autoencoder that keeps the full 3D grid of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import nn

from bertswin_ext.networks.backbone import BertsWinBackbone, channels_first, initialize_weights
from bertswin_ext.networks.decoders import ReconstructionDecoder
from bertswin_ext.networks.mask_tokens import MaskTokenUpdate, PlacedTokens, checked_mask_token_updates
from bertswin_ext.networks.masking import RatioOf, choose_visible, visible_where
from bertswin_ext.networks.stems import StemKind, split_patches

__all__ = ["BertsWinMAE"]


class BertsWinMAE(BertsWinBackbone):
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
        activation_checkpointing: compute the blocks again in every backward pass instead of keeping their activations;
            a matter of memory, not of the network, so it is no part of ``arguments``.
        mask_token_updates: what mask tokens take part in, one word for each block or one for all. ``"full"``, as in the
            paper: attention and MLP. ``"attention"``: not the MLP. ``"none"``: neither; they stay as they are, and
            visible tokens see only each other. Parameters are the same, and where nothing is masked so is what every
            block computes. None, or ``"full"`` everywhere, is no part of ``arguments``.

    Shape:
        - b batch, c channels, i j k voxels, gi gj gk grid of tokens, n = gi * gj * gk tokens in C order, h hidden size.

    Raises:
        ValueError: an argument breaks one of the rules above; the message names it.

    Source: arXiv 2512.21769, section 3. Where this network differs from the authors' code: hidden tokens of a window
    are masked with -inf instead of -100, the masking ratio counts valid tokens (``ratio_of``), and mask tokens may be
    left out of blocks (``mask_token_updates``).

    Example:
        >>> network = BertsWinMAE(img_size=32, patch_size=8, hidden_size=48, num_layers=2, num_heads=4, window_size=2)
        >>> output = network(torch.zeros(1, 1, 32, 32, 32))
        >>> output["reconstruction"].shape, output["masked"].sum().item()
        (torch.Size([1, 1, 32, 32, 32]), 48)
    """

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
        activation_checkpointing: bool = False,
        mask_token_updates: MaskTokenUpdate | Sequence[MaskTokenUpdate] | None = None,
    ) -> None:
        sizes = (img_size, patch_size, in_channels, hidden_size, num_layers, num_heads, window_size, stem_channels)
        super().__init__(*sizes, stem, activation_checkpointing)
        if decoder_hidden_size < 1:
            raise ValueError(f"`decoder_hidden_size` must be at least 1, got {decoder_hidden_size}.")
        self.masking_ratio = _checked_masking_ratio(masking_ratio, self.grid_size)
        if ratio_of not in get_args(RatioOf):
            raise ValueError(f"`ratio_of` must be 'valid' or 'all', got {ratio_of!r}.")
        self.ratio_of = ratio_of
        self.arguments |= {
            "decoder_hidden_size": decoder_hidden_size,
            "masking_ratio": masking_ratio,
            "ratio_of": ratio_of,
        }
        self.encoder.mask_token_updates = checked_mask_token_updates(mask_token_updates, num_layers)
        if any(update != "full" for update in self.encoder.mask_token_updates):
            self.arguments["mask_token_updates"] = list(self.encoder.mask_token_updates)

        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.decoder = ReconstructionDecoder(hidden_size, decoder_hidden_size, self.patch_size, in_channels)
        self.apply(initialize_weights)
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
        placed = self.encoder.place(visible, self.grid_size, num_samples, fixed_length)
        patches = split_patches(x, self.patch_size)[visible.sample, visible.token]
        embedded = self.stem.embed_patches(patches)
        mask_token = self.mask_token.to(embedded.dtype)
        if fixed_length:
            embedded = torch.where(visible.live[:, None], embedded, mask_token[0])
        tokens = mask_token.repeat(num_samples, num_tokens, 1)
        tokens = tokens.index_put((visible.sample, visible.token), embedded)
        masked = torch.ones(num_samples, num_tokens, dtype=torch.bool, device=x.device)
        masked = masked.index_put((visible.sample, visible.token), ~visible.live)
        encoded = self.encoder(self._place(tokens, self.grid_size), placed)
        return {"reconstruction": self.decoder(encoded), "masked": masked}

    def encode_patches(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Encode every patch through the stem one by one, as in pre-training, with nothing hidden.

        Args:
            x: volumes (b, c, i, j, k), sizes divisible by the patch size.
            valid: (b, n) bool; invalid tokens are replaced by the mask token, and are what mask tokens are to
                ``mask_token_updates``.

        Returns:
            Features (b, h, gi, gj, gk).
        """
        self._check_volume(x)
        patches = split_patches(x, self.patch_size)
        tokens = self.stem.embed_patches(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        grid, placed = self._grid_of(x), None
        if valid is not None:
            _check_tokens("valid", valid, (patches.shape[0], patches.shape[1]), torch.bool)
            tokens = torch.where(valid[..., None], tokens, self.mask_token.to(tokens.dtype))
            placed = self._place_valid(valid, grid)
        return channels_first(self.encoder(self._place(tokens, grid), placed))

    def _place_valid(self, valid: torch.Tensor, grid: tuple[int, int, int]) -> list[PlacedTokens | None] | None:
        """The blocks that invalid tokens sit out."""
        if self.encoder.updates_all_tokens:
            return None
        fixed_length = torch.compiler.is_compiling()
        visible = visible_where(valid, fixed_length)
        return self.encoder.place(visible, grid, len(valid), fixed_length)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Reconstruct a volume (b, c, i, j, k) from features (b, h, gi, gj, gk)."""
        return self.decoder(features.movedim(1, -1))


def _checked_masking_ratio(masking_ratio: float, grid_size: tuple[int, int, int]) -> float:
    """Leaves at least one token visible."""
    num_tokens = grid_size[0] * grid_size[1] * grid_size[2]
    if not 0 <= masking_ratio < 1 or int(num_tokens * (1 - masking_ratio)) < 1:
        raise ValueError(
            f"`masking_ratio` must be in [0, 1) and leave at least one of the {num_tokens} tokens visible, "
            f"got {masking_ratio}."
        )
    return masking_ratio


def _check_tokens(name: str, tensor: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """One entry per token, of the right type."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"`{name}` must be (batch, tokens) = {shape} of {dtype}, got {found}.")
