"""Single-level Swin encoder: windowed attention on one 3D grid of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from einops import rearrange
from monai.networks.blocks import MLPBlock
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bertswin_ext.networks.mask_tokens import (
    PlacedTokens,
    VisibleWindows,
    checked_mask_token_updates,
    lay_out_windows,
    place_in_windows,
)
from bertswin_ext.networks.masking import VisibleTokens

__all__ = ["SwinBlock", "SwinEncoder", "WindowAttention", "WindowPlan", "plan_windows"]

# memory-efficient attention copies a bias whose rows do not begin at multiples of this many entries
_ALIGNMENT = 8


class WindowPlan(NamedTuple):
    """How a grid is cut into windows.

    Attributes:
        window_size: tokens of a window per axis.
        padding: zero tokens added at the far side of each axis.
        shift: roll of each axis in the shifted blocks; 0 where one window spans the padded axis.
        blocked: (number of windows, w, w) bool with w tokens in a window: pairs that the shifted blocks must not
            see, because the roll brought together tokens from opposite ends. None when nothing is shifted.
    """

    window_size: tuple[int, int, int]
    padding: tuple[int, int, int]
    shift: tuple[int, int, int]
    blocked: torch.Tensor | None


def plan_windows(grid_size: Sequence[int], window_size: Sequence[int]) -> WindowPlan:
    """Plan the windows of a grid, padded where the window does not divide it.

    Args:
        grid_size: tokens per axis (gi, gj, gk).
        window_size: tokens of a window per axis.

    Returns:
        The plan, tensors on the CPU.
    """
    padding, shift, regions = [], [], []
    for size, window in zip(grid_size, window_size, strict=True):
        padded = -(-size // window) * window
        step = _shift(size, window)
        padding.append(padded - size)
        shift.append(step)
        region = torch.zeros(padded, dtype=torch.long)
        if step:
            region[-window:-step] = 1
            region[-step:] = 2
        regions.append(region)
    window_size_ = cast("tuple[int, int, int]", tuple(window_size))
    blocked = None
    if any(shift):
        ri, rj, rk = regions
        region_id = (9 * ri[:, None, None] + 3 * rj[:, None] + rk)[None, ..., None]
        windows = _partition(region_id, window_size_).squeeze(-1)
        blocked = windows[:, :, None] != windows[:, None, :]
    return WindowPlan(window_size_, _triple(padding), _triple(shift), blocked)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for every relative position.

    Args:
        hidden_size: width of a token.
        num_heads: attention heads, a divisor of ``hidden_size``.
        window_size: tokens of a window per axis.

    Source: Swin Transformer, arXiv 2103.14030; computed by ``scaled_dot_product_attention``.
    """

    relative_position_index: torch.Tensor

    def __init__(self, hidden_size: int, num_heads: int, window_size: Sequence[int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_tokens = math.prod(window_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        spans = [2 * window - 1 for window in window_size]
        self.relative_position_bias_table = nn.Parameter(torch.empty(spans[0] * spans[1] * spans[2], num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = _aligned(_relative_position_index(window_size))
        self.register_buffer("relative_position_index", index.flatten(), persistent=False)

    def position_bias(self) -> torch.Tensor:
        """Bias of every pair of tokens in a window: (heads, w, w)."""
        return self._aligned_bias()[..., : self.num_tokens]

    def _aligned_bias(self) -> torch.Tensor:
        """`position_bias` in rows of an aligned length, which nothing reads beyond the window."""
        # index_select on the transposed table: several times faster, both ways, than advanced indexing
        bias = self.relative_position_bias_table.t().index_select(1, self.relative_position_index)
        return bias.unflatten(1, (self.num_tokens, -1))

    def forward(self, windows: torch.Tensor, blocked: torch.Tensor | None = None) -> torch.Tensor:
        """Attend within every window.

        Args:
            windows: (b * number of windows, w, h).
            blocked: (number of windows, w, w) bool, True where a pair must not see each other.

        Returns:
            (b * number of windows, w, h).
        """
        qkv = self.qkv(windows)
        bias = self._aligned_bias().to(qkv.dtype)[None]
        if blocked is not None:
            bias = _without_pairs(bias, blocked).repeat(windows.shape[0] // blocked.shape[0], 1, 1, 1)
        # not expanded over the windows, lest a kernel that copies it copies it for every window
        return self.proj(self._attend(qkv, bias[..., : self.num_tokens]))

    def among_visible(self, tokens: torch.Tensor, windows: VisibleWindows) -> torch.Tensor:
        """Attend within every window, mask tokens left out: visible tokens (m, h) to (m, h)."""
        qkv = windows.fill(self.qkv(tokens))
        bias = _without_pairs(self._visible_bias(windows).to(qkv.dtype), windows.blocked)
        return self.proj(windows.read(self._attend(qkv, bias[..., : qkv.shape[1]])))

    def _attend(self, qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Weighted values (windows, w, h) of queries, keys and values (windows, w, 3 h)."""
        pattern = "m w (three heads d) -> three m heads w d"
        q, k, v = rearrange(qkv, pattern, three=3, heads=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return rearrange(attended, "m heads w d -> m w (heads d)")

    def _visible_bias(self, windows: VisibleWindows) -> torch.Tensor:
        """Bias of every pair of places: (windows or 1, heads, room, room)."""
        if windows.bias_rows is None:
            return self._aligned_bias()[None]
        bias = self.relative_position_bias_table.t().index_select(1, windows.bias_rows)
        return bias.unflatten(1, windows.blocked.shape).transpose(0, 1)


class SwinBlock(nn.Module):
    """Pre-norm transformer block with windowed attention.

    Args:
        hidden_size: width of a token.
        num_heads: attention heads.
        window_size: tokens of a window per axis.
        shifted: whether the windows of this block are shifted by half a window.
    """

    def __init__(self, hidden_size: int, num_heads: int, window_size: Sequence[int], shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-5)
        self.attn = WindowAttention(hidden_size, num_heads, window_size)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-5)
        self.mlp = MLPBlock(hidden_size, 4 * hidden_size)

    def forward(self, x: torch.Tensor, plan: WindowPlan, visible: PlacedTokens | None = None) -> torch.Tensor:
        """Update a grid of tokens.

        Args:
            x: (b, gi, gj, gk, h).
            plan: windows of the grid.
            visible: tokens that alone take part in the MLP, and with ``windows`` in attention as well; all others stay
                as they are. None for a block that updates all tokens.

        Returns:
            (b, gi, gj, gk, h).
        """
        if visible is not None and visible.windows is not None:
            old = visible.take(x)
            return visible.put(x, old, self._mix(old + self.attn.among_visible(self.norm1(old), visible.windows)))
        x = x + self._attend(self.norm1(x), plan)
        if visible is None:
            return self._mix(x)
        old = visible.take(x)
        return visible.put(x, old, self._mix(old))

    def _mix(self, x: torch.Tensor) -> torch.Tensor:
        """Update tokens (..., h) by the MLP."""
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
        """Pad, roll, attend window by window, and undo it."""
        gi, gj, gk = x.shape[1:4]
        pi, pj, pk = plan.padding
        if any(plan.padding):
            x = F.pad(x, (0, 0, 0, pk, 0, pj, 0, pi))
        padded = x.shape[1:4]
        rolled = self.shifted and plan.blocked is not None
        if rolled:
            x = x.roll([-step for step in plan.shift], dims=(1, 2, 3))
        windows = self.attn(_partition(x, plan.window_size), plan.blocked if rolled else None)
        x = _unpartition(windows, padded, plan.window_size)
        if rolled:
            x = x.roll(plan.shift, dims=(1, 2, 3))
        return x[:, :gi, :gj, :gk]


class SwinEncoder(nn.Module):
    """Stack of Swin blocks at one resolution, every second one shifted; no final norm.

    Args:
        grid_size: tokens per axis that the window plan is prepared for; other grids are planned when they come.
        hidden_size: width of a token.
        num_layers: number of blocks.
        num_heads: attention heads.
        window_size: tokens of a window per axis.
        activation_checkpointing: keep only the input of every block in training, and run the block again in each
            backward pass, so once per loss: less memory for more time, and the same numbers.

    Attributes:
        mask_token_updates: for every block, what mask tokens take part in: ``"full"``, ``"attention"`` or ``"none"``.

    Source: arXiv 2512.21769, section 3; that mask tokens may sit blocks out is ours.
    """

    blocked: torch.Tensor | None

    def __init__(
        self,
        grid_size: Sequence[int],
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        window_size: Sequence[int],
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.grid_size = _triple(grid_size)
        self.window_size = _triple(window_size)
        self.blocks = nn.ModuleList(
            SwinBlock(hidden_size, num_heads, window_size, shifted=bool(layer % 2)) for layer in range(num_layers)
        )
        self.mask_token_updates = checked_mask_token_updates(None, num_layers)
        self._plan = plan_windows(self.grid_size, self.window_size)
        self.register_buffer("blocked", self._plan.blocked, persistent=False)

    @property
    def updates_all_tokens(self) -> bool:
        """Whether no block leaves mask tokens out."""
        return all(update == "full" for update in self.mask_token_updates)

    def forward(self, x: torch.Tensor, placed: Sequence[PlacedTokens | None] | None = None) -> torch.Tensor:
        """Encode a grid of tokens (b, gi, gj, gk, h), some of them mask tokens if `place` says so."""
        return self.forward_intermediates(x, (), placed)[0]

    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int], placed: Sequence[PlacedTokens | None] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode, and keep what the blocks of the given indices put out.

        Args:
            x: (b, gi, gj, gk, h).
            indices: blocks to keep, counted from 0.
            placed: what `place` gave; None where no token is a mask token.

        Returns:
            Output of the last block, and the kept ones in the order of the blocks, each (b, gi, gj, gk, h).
        """
        plan = self._plan_for(x)
        kept = []
        for layer, block in enumerate(self.blocks):
            x = self._run(block, x, plan, None if placed is None else placed[layer])
            if layer in indices:
                kept.append(x)
        return x, kept

    def place(
        self, visible: VisibleTokens, grid_size: Sequence[int], num_samples: int, fixed_length: bool = False
    ) -> list[PlacedTokens | None] | None:
        """Prepare the blocks that mask tokens sit out.

        Args:
            visible: the visible tokens of the batch; every other token is a mask token.
            grid_size: tokens per axis.
            num_samples: samples of the batch.
            fixed_length: let no shape depend on data, and ``visible`` have entries that are not live.

        Returns:
            What `forward` needs to know, an entry for every block, or None where all blocks update all tokens.
        """
        if self.updates_all_tokens:
            return None
        rows = visible.sample * math.prod(grid_size) + visible.token
        cells = torch.unravel_index(rows, (num_samples, *grid_size))
        tokens = PlacedTokens(rows, cells, visible.live if fixed_length else None, None)
        whole = fixed_length or rows.is_meta
        windows = {
            shifted: self._visible_windows(visible, grid_size, num_samples, shifted, whole)
            for shifted in {bool(layer % 2) for layer, update in enumerate(self.mask_token_updates) if update == "none"}
        }
        return [
            None
            if update == "full"
            else tokens._replace(windows=windows[bool(layer % 2)] if update == "none" else None)
            for layer, update in enumerate(self.mask_token_updates)
        ]

    def _visible_windows(
        self, visible: VisibleTokens, grid_size: Sequence[int], num_samples: int, shifted: bool, whole: bool
    ) -> VisibleWindows:
        """Windows without mask tokens, of the shifted blocks or of the others."""
        shift = [_shift(size, window) * shifted for size, window in zip(grid_size, self.window_size, strict=True)]
        layout = lay_out_windows(grid_size, self.window_size, shift, visible.token.device)
        rows = cast("SwinBlock", self.blocks[0]).attn.relative_position_index
        return place_in_windows(visible, num_samples, layout, rows, whole)

    def _run(self, block: nn.Module, x: torch.Tensor, plan: WindowPlan, placed: PlacedTokens | None) -> torch.Tensor:
        """One block, checkpointed where it is asked for and gradients are."""
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return cast("torch.Tensor", block(x, plan, placed))
        # nothing in a block is random
        return cast("torch.Tensor", checkpoint(block, x, plan, placed, use_reentrant=False, preserve_rng_state=False))

    def _plan_for(self, x: torch.Tensor) -> WindowPlan:
        """The prepared plan, or a new one for a grid of another size."""
        grid = tuple(x.shape[1:4])
        if grid == self.grid_size:
            return self._plan._replace(blocked=self.blocked)
        plan = plan_windows(grid, self.window_size)
        return plan if plan.blocked is None else plan._replace(blocked=plan.blocked.to(x.device))


def _shift(size: int, window: int) -> int:
    """Tokens by which the windows of an axis are shifted: none where one window spans it."""
    return 0 if window >= size else window // 2


def _without_pairs(bias: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """A bias that hides pairs: (windows, heads, w, w) of one or all windows, pairs (windows, w, w)."""
    # -inf, not a large negative number: subnormal weights would slow every product that follows
    return bias.masked_fill(_aligned(blocked)[:, None], float("-inf"))


def _relative_position_index(window_size: Sequence[int]) -> torch.Tensor:
    """Row of the bias table for every pair (query, key) of a window: (w, w)."""
    axes = [torch.arange(window) for window in window_size]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    offsets = positions[:, :, None] - positions[:, None, :]
    index = torch.zeros_like(offsets[0])
    for offset, window in zip(offsets, window_size, strict=True):
        index = index * (2 * window - 1) + offset + window - 1
    return index


def _aligned(pairs: torch.Tensor) -> torch.Tensor:
    """(..., w, w) with zeros after every row, up to a multiple of the alignment."""
    return F.pad(pairs, (0, -pairs.shape[-1] % _ALIGNMENT))


def _partition(x: torch.Tensor, window_size: tuple[int, int, int]) -> torch.Tensor:
    """(b, gi, gj, gk, h) to (b * number of windows, w, h)."""
    wi, wj, wk = window_size
    pattern = "b (ni wi) (nj wj) (nk wk) h -> (b ni nj nk) (wi wj wk) h"
    return rearrange(x, pattern, wi=wi, wj=wj, wk=wk)


def _unpartition(windows: torch.Tensor, grid: Sequence[int], window_size: tuple[int, int, int]) -> torch.Tensor:
    """(b * number of windows, w, h) to (b, gi, gj, gk, h)."""
    wi, wj, wk = window_size
    ni, nj, nk = (size // window for size, window in zip(grid, window_size, strict=True))
    pattern = "(b ni nj nk) (wi wj wk) h -> b (ni wi) (nj wj) (nk wk) h"
    return rearrange(windows, pattern, ni=ni, nj=nj, nk=nk, wi=wi, wj=wj, wk=wk)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    """Three numbers as a tuple."""
    i, j, k = values
    return int(i), int(j), int(k)
