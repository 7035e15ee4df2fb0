"""Blocks that mask tokens sit out, wholly or for the MLP: the visible tokens of a batch on their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch

from bertswin_ext.networks.masking import VisibleTokens

__all__ = [
    "MaskTokenUpdate",
    "PlacedTokens",
    "VisibleWindows",
    "WindowLayout",
    "checked_mask_token_updates",
    "lay_out_windows",
    "place_in_windows",
]

MaskTokenUpdate = Literal["full", "attention", "none"]

# rows of a bias of this many entries, or a multiple, are what memory-efficient attention reads without a copy
_ALIGNMENT = 8
_NOBODY = -1


class WindowLayout(NamedTuple):
    """Where the n tokens of a grid stand in the windows of a block.

    Attributes:
        slot: (n,) position in the windows laid end to end: number of the window * w + position within it.
        region: (n,) from 0; tokens of one window with different numbers must not see each other.
        num_windows: windows of a sample.
        window_tokens: w, tokens of a window.
    """

    slot: torch.Tensor
    region: torch.Tensor
    num_windows: int
    window_tokens: int


class VisibleWindows(NamedTuple):
    """The m visible tokens of a batch in windows that have room for them, but not for the mask tokens.

    Attributes:
        place: (m,) where each token goes in the windows laid end to end.
        blocked: (windows, room, room) bool, pairs that must not see each other. An empty place sees empty places
            alone, so that no place sees nothing.
        bias_rows: (windows * room * room,) row of the table of position bias for every pair; None where every window
            has room for all its tokens, in their order.
    """

    place: torch.Tensor
    blocked: torch.Tensor
    bias_rows: torch.Tensor | None

    def fill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (m, h) in their windows (windows, room, h), zeros in empty places."""
        windows, room, _ = self.blocked.shape
        places = tokens.new_zeros(windows * room, tokens.shape[1])
        return places.index_copy_(0, self.place, tokens).unflatten(0, (windows, room))

    def read(self, windows: torch.Tensor) -> torch.Tensor:
        """Tokens (m, h) out of windows (windows, room, h)."""
        return windows.flatten(0, 1).index_select(0, self.place)


class PlacedTokens(NamedTuple):
    """What a block has to know of the m visible tokens to leave mask tokens out.

    Attributes:
        rows: (m,) place of each in the batch: sample * n + token.
        cells: the same as (sample, i, j, k), (m,) each.
        live: (m,) bool, False for entries that are mask tokens after all; None where none is.
        windows: those of the visible tokens, for a block without mask tokens; None for one in which they take part in
            attention.
    """

    rows: torch.Tensor
    cells: tuple[torch.Tensor, ...]
    live: torch.Tensor | None
    windows: VisibleWindows | None

    def take(self, grid: torch.Tensor) -> torch.Tensor:
        """The visible tokens (m, h) of a grid (b, gi, gj, gk, h)."""
        return grid.flatten(0, -2).index_select(0, self.rows)

    def put(self, grid: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """The grid with its visible tokens replaced; ``old`` is what `take` gave, both (m, h)."""
        if self.live is not None:
            new = torch.where(self.live[:, None], new, old)
        # no view of a flat copy: blocks must not return one where weights are dealt out (FSDP)
        return grid.index_put(self.cells, new.to(grid.dtype))


def lay_out_windows(
    grid_size: Sequence[int], window_size: Sequence[int], shift: Sequence[int], device: torch.device | None = None
) -> WindowLayout:
    """Find the place of every token in the windows of a block.

    Args:
        grid_size: tokens per axis.
        window_size: tokens of a window per axis; the last windows of an axis may stand out over the grid.
        shift: tokens by which the windows are shifted, per axis; what is left at the far end shares the last window
            with what is left at the near end, and is another region.
        device: where the tensors go.

    Example:
        >>> layout = lay_out_windows((4, 1, 1), (2, 1, 1), (1, 0, 0))
        >>> layout.slot.tolist(), layout.region.tolist()
        ([3, 0, 1, 2], [18, 0, 0, 9])
    """
    window = slot = region = torch.zeros((), dtype=torch.long, device=device)
    num_windows = 1
    for axis, (size, edge, step) in enumerate(zip(grid_size, window_size, shift, strict=True)):
        along = [1, 1, 1]
        along[axis] = size
        padded = -(-size // edge) * edge
        position = ((torch.arange(size, device=device) - step) % padded).view(along)
        window = window * (padded // edge) + position // edge
        slot = slot * edge + position % edge
        region = 3 * region + (_region(position, padded, edge, step) if step else 0)
        num_windows *= padded // edge
    window_tokens = math.prod(window_size)
    region = region.expand_as(slot)
    return WindowLayout((window * window_tokens + slot).flatten(), region.flatten(), num_windows, window_tokens)


def place_in_windows(
    visible: VisibleTokens, num_samples: int, layout: WindowLayout, bias_rows: torch.Tensor, whole: bool
) -> VisibleWindows:
    """Put visible tokens into windows with room for as many as the fullest one has.

    Args:
        visible: the visible tokens of the batch, all of them live unless ``whole``.
        num_samples: samples of the batch.
        layout: of a sample.
        bias_rows: row of the table of position bias for every pair of places of a whole window, in rows that may be
            longer than the window.
        whole: give every window room for all its tokens, so that no shape depends on where the visible ones are.
    """
    num_slots, w = layout.num_windows * layout.window_tokens, layout.window_tokens
    slot = visible.sample * num_slots + layout.slot[visible.token]
    region = layout.region[visible.token].masked_fill(~visible.live, _NOBODY)
    regions = _spread(region, slot, num_samples * num_slots, _NOBODY).view(-1, w)
    if whole:
        return VisibleWindows(slot, _apart(regions), None)
    taken = regions != _NOBODY
    rank = (taken.cumsum(dim=1) - 1).flatten()
    room = _aligned_room(int(taken.sum(dim=1).max()))
    place = slot // w * room + rank[slot]
    positions = _spread(slot % w, place, len(taken) * room, 0).view(-1, room)
    pairs = positions[:, :, None] * (len(bias_rows) // w) + positions[:, None, :]
    regions = _spread(region, place, len(taken) * room, _NOBODY).view(-1, room)
    return VisibleWindows(place, _apart(regions), bias_rows[pairs.flatten()])


def checked_mask_token_updates(
    updates: MaskTokenUpdate | Sequence[MaskTokenUpdate] | None, num_layers: int
) -> tuple[MaskTokenUpdate, ...]:
    """One word for each block, from one for all of them, one for each, or None for the standard network.

    Raises:
        ValueError: a word is unknown, their number is wrong, or mask tokens would never learn of visible ones.

    Example:
        >>> checked_mask_token_updates(None, 2), checked_mask_token_updates(["none", "full"], 2)
        (('full', 'full'), ('none', 'full'))
    """
    given = "full" if updates is None else updates
    words = (given,) * num_layers if isinstance(given, str) else tuple(given)
    unknown = [word for word in words if word not in get_args(MaskTokenUpdate)]
    if unknown:
        raise ValueError(
            f"`mask_token_updates` must consist of 'full', 'attention' and 'none', got {unknown[0]!r}. Give one of "
            "them for all blocks, or a list with one for each block."
        )
    if len(words) != num_layers:
        raise ValueError(
            f"`mask_token_updates` must have one entry for each of the {num_layers} blocks (`num_layers`), got "
            f"{len(words)}: {list(words)}. Add or remove entries, or give one word for all blocks."
        )
    if all(word == "none" for word in words):
        raise ValueError(
            "`mask_token_updates` must let mask tokens take part in at least one block, got 'none' for all "
            f"{num_layers}: nothing hidden could be reconstructed. Set an entry to 'full' or 'attention', or leave "
            "the argument out for the standard network."
        )
    return words


def _region(position: torch.Tensor, padded: int, window: int, step: int) -> torch.Tensor:
    """0 before the last window of a rolled axis, 1 in the part of it that was there, 2 in what was rolled in."""
    return (position >= padded - window).long() + (position >= padded - step).long()


def _aligned_room(most: int) -> int:
    """Room for that many tokens, and for one at least."""
    return -(-max(most, 1) // _ALIGNMENT) * _ALIGNMENT


def _spread(values: torch.Tensor, places: torch.Tensor, length: int, empty: int) -> torch.Tensor:
    """Values at their places among others."""
    return values.new_full((length,), empty).index_copy(0, places, values)


def _apart(regions: torch.Tensor) -> torch.Tensor:
    """(windows, room) to (windows, room, room): pairs of different regions."""
    return regions[:, :, None] != regions[:, None, :]
