"""BertsWin written down from its description with no thought of speed: what `pretrain_step.py` compares with.

The same arithmetic as `BertsWinMAE`, `SubpatchStructureLoss`, `GradientConductor` and `LionLARS`, and the same names of
parameters, so that weights can be exchanged. Every block computes its mask of -100 and gathers its relative bias anew,
attention is two products and a softmax, the loss cuts and standardizes sub-patches, and the conductor and the optimizer
(`Loop` and `TensorLion` of `tensor_loops.py`) go tensor by tensor. Nothing is wasted on purpose: the stem sees visible
patches only, the loss masked ones only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise, product

import torch
from torch import nn
from torch.nn import functional as F

Losses = Mapping[str, torch.Tensor]
Grid = tuple[int, int, int]

BLOCKED = -100.0


# --- network ---


class StraightforwardMAE(nn.Module):
    """Patch stem on visible patches, mask tokens, Swin blocks on the full grid, transposed convolutions.

    Args:
        img_size: voxels per axis.
        patch_size: edge of a patch.
        hidden_size: width of a token.
        num_layers: blocks, every second one shifted.
        num_heads: attention heads.
        window_size: tokens of a window per axis.
        decoder_hidden_size: width of the decoder's embedding.
        stem_channels: width of the stem's first stage.
        masking_ratio: share of hidden tokens.
    """

    position_table: torch.Tensor

    def __init__(
        self,
        img_size: int,
        patch_size: int = 16,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        window_size: int = 7,
        decoder_hidden_size: int = 512,
        stem_channels: int = 48,
        masking_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid = patch_size, img_size // patch_size
        self.num_visible = int(self.grid**3 * (1 - masking_ratio))
        self.stem = Stem(patch_size, stem_channels, hidden_size)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, hidden_size))
        self.encoder = nn.Module()
        shifts = [window_size // 2 * (layer % 2) for layer in range(num_layers)]
        self.encoder.blocks = nn.ModuleList(Block(hidden_size, num_heads, window_size, shift) for shift in shifts)
        self.decoder = Decoder(patch_size, hidden_size, decoder_hidden_size)
        self.register_buffer("position_table", _positions(self.grid, hidden_size), persistent=False)
        self.apply(_initialize)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Hide most of a volume (b, 1, s, s, s) and reconstruct all of it."""
        patches = split(x, self.patch_size)
        b, n = patches.shape[:2]
        noise = torch.rand(b, n, device=x.device) if noise is None else noise
        visible = torch.argsort(noise, dim=1)[:, : self.num_visible]
        samples = torch.arange(b, device=x.device)[:, None]
        embedded = self.stem(patches[samples, visible].flatten(0, 1))
        tokens = self.mask_token.repeat(b, n, 1)
        tokens[samples, visible] = embedded.reshape(b, self.num_visible, -1).to(tokens.dtype)
        masked = torch.ones(b, n, dtype=torch.bool, device=x.device)
        masked[samples, visible] = False
        tokens = (tokens + self.position_table).reshape(b, self.grid, self.grid, self.grid, -1)
        for block in self.encoder.blocks:
            tokens = block(tokens)
        return {"reconstruction": self.decoder(tokens), "masked": masked}


class Stem(nn.Module):
    """Convolutions of stride 2 with group norm and GELU, then a projection."""

    def __init__(self, patch_size: int, stem_channels: int, hidden_size: int) -> None:
        super().__init__()
        widths = [1, *(stem_channels * 2**stage for stage in range(int(math.log2(patch_size))))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(4, after), nn.GELU()
            )
            for before, after in pairwise(widths)
        )
        self.projection = nn.Conv3d(widths[-1], hidden_size, 1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (m, 1, p, p, p) to tokens (m, h)."""
        for stage in self.stages:
            patches = stage(patches)
        return self.projection(patches).flatten(1)


class Attention(nn.Module):
    """Attention inside windows with a relative bias."""

    relative_position_index: torch.Tensor

    def __init__(self, hidden_size: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (hidden_size // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 3, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_index(window), persistent=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Windows (b * windows, w, h), mask (windows, w, w)."""
        m, w, h = x.shape
        qkv = self.qkv(x).reshape(m, w, 3, self.num_heads, h // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = query @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)].reshape(w, w, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous()[None]
        if mask is not None:
            scores = scores.reshape(m // len(mask), len(mask), self.num_heads, w, w) + mask[None, :, None]
            scores = scores.reshape(m, self.num_heads, w, w)
        weights = torch.softmax(scores, dim=-1).to(value.dtype)
        return self.proj((weights @ value).transpose(1, 2).reshape(m, w, h))


class Mlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.linear2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., h) to the same."""
        return self.linear2(F.gelu(self.linear1(x)))


class Block(nn.Module):
    """Pre-norm Swin block."""

    def __init__(self, hidden_size: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.attn, self.mlp = Attention(hidden_size, num_heads, window), Mlp(hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens on their grid (b, g, g, g, h) to the same."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[1]
        missing = -grid % self.window
        x = F.pad(x, (0, 0, 0, missing, 0, missing, 0, missing))
        padded = grid + missing
        shift = self.shift if self.window < padded else 0
        mask = None
        if shift:
            x = torch.roll(x, (-shift, -shift, -shift), dims=(1, 2, 3))
            mask = shift_mask(padded, self.window, shift, x.device)
        x = join_windows(self.attn(windows_of(x, self.window), mask), self.window, padded)
        if shift:
            x = torch.roll(x, (shift, shift, shift), dims=(1, 2, 3))
        return x[:, :grid, :grid, :grid].contiguous()


class Decoder(nn.Module):
    """Linear embedding and three transposed convolutions."""

    def __init__(self, patch_size: int, hidden_size: int, decoder_hidden_size: int) -> None:
        super().__init__()
        self.embed = nn.Linear(hidden_size, decoder_hidden_size)
        first, second, third = _strides(patch_size)
        self.head = nn.Sequential(
            nn.ConvTranspose3d(decoder_hidden_size, 64, first, stride=first),
            nn.GroupNorm(8, 64),
            nn.GELU(),
            nn.ConvTranspose3d(64, 16, second, stride=second),
            nn.GroupNorm(4, 16),
            nn.GELU(),
            nn.ConvTranspose3d(16, 1, third, stride=third),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (b, g, g, g, h) to a volume (b, 1, s, s, s)."""
        return self.head(self.embed(x).permute(0, 4, 1, 2, 3).contiguous())


def split(x: torch.Tensor, edge: int) -> torch.Tensor:
    """(b, c, s, s, s) to cubes in C order (b, n, c, edge, edge, edge)."""
    cubes = x.unfold(2, edge, edge).unfold(3, edge, edge).unfold(4, edge, edge)
    return cubes.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(1, 3).contiguous()


def windows_of(x: torch.Tensor, window: int) -> torch.Tensor:
    """(b, g, g, g, h) to (b * windows, window^3, h)."""
    b, g, h = len(x), x.shape[1] // window, x.shape[-1]
    x = x.view(b, g, window, g, window, g, window, h).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.contiguous().view(-1, window**3, h)


def join_windows(x: torch.Tensor, window: int, grid: int) -> torch.Tensor:
    """(b * windows, window^3, h) to (b, g, g, g, h)."""
    g, h = grid // window, x.shape[-1]
    x = x.view(-1, g, g, g, window, window, window, h).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.contiguous().view(-1, grid, grid, grid, h)


def shift_mask(grid: int, window: int, shift: int, device: torch.device) -> torch.Tensor:
    """-100 for pairs that the roll brought together from opposite ends, 0 for others: (windows, w, w)."""
    regions = torch.zeros(1, grid, grid, grid, 1, device=device)
    parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (i, j, k) in enumerate(product(parts, repeat=3)):
        regions[:, i, j, k] = number
    regions = windows_of(regions, window).squeeze(-1)
    return torch.where(regions[:, None, :] != regions[:, :, None], BLOCKED, 0.0)


def _relative_index(window: int) -> torch.Tensor:
    """Row of the bias table for every pair of tokens (w, w)."""
    places = torch.cartesian_prod(*3 * [torch.arange(window)])
    offsets = places[:, None] - places[None] + window - 1
    span = 2 * window - 1
    return (offsets[..., 0] * span + offsets[..., 1]) * span + offsets[..., 2]


def _positions(grid: int, hidden_size: int) -> torch.Tensor:
    """Sines and cosines of the three indices (1, n, h)."""
    places = torch.cartesian_prod(*3 * [torch.arange(grid)]).float()
    count = hidden_size // 6
    rates = 10000.0 ** (-torch.arange(count) / count)
    angles = places[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


def _strides(patch_size: int) -> Grid:
    """Factors of two, dealt out one after the other: 16 is 4 * 2 * 2."""
    strides = [1, 1, 1]
    for turn in range(int(math.log2(patch_size))):
        strides[turn % 3] *= 2
    return strides[0], strides[1], strides[2]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- loss ---


def structure_terms(
    output: Losses, volume: torch.Tensor, patch_size: int, subpatch_size: int
) -> dict[str, torch.Tensor]:
    """Brightness, contrast and structure of the sub-patches of masked patches, in float32 or float64."""
    prediction, target = (
        split(split(x if x.dtype == torch.float64 else x.float(), patch_size)[output["masked"]], subpatch_size).flatten(
            2
        )
        for x in (output["reconstruction"], volume)
    )
    mean_p, mean_t = prediction.mean(dim=-1), target.mean(dim=-1)
    std_p, std_t = prediction.std(dim=-1, unbiased=False), target.std(dim=-1, unbiased=False)
    shape_p = (prediction - mean_p[..., None]) / (std_p[..., None] + 1e-8)
    shape_t = (target - mean_t[..., None]) / (std_t[..., None] + 1e-8)
    return {
        "brightness": ((mean_p - mean_t) ** 2).mean(),
        "contrast": ((std_p - std_t) ** 2).mean(),
        "structure": ((shape_p - shape_t) ** 2).mean(),
    }
