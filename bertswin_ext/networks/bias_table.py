"""Tables of relative position bias for windows of another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

__all__ = ["resize_bias_table"]


def resize_bias_table(table: torch.Tensor, window_size: Sequence[int], new_window_size: Sequence[int]) -> torch.Tensor:
    """Interpolate a table of relative position bias, trilinearly and every head on its own.

    The table is stretched: the farthest pair of the new window gets the bias of the farthest pair of the old one, so
    the bias keeps its course over the window, not over tokens. Attention learnt in another window is only a start:
    fine-tune the encoder's blocks, too.

    Args:
        table: (rows, heads), a row for every offset (2 w - 1 per axis), the last axis running fastest.
        window_size: tokens per axis of the windows that the table was learnt with.
        new_window_size: tokens per axis of the windows that it shall serve.

    Returns:
        The table of the new windows, (new rows, heads).

    Raises:
        ValueError: the table has not the rows of its window.

    Source: Swin Transformer, arXiv 2103.14030, which does so in two dimensions and with bicubic weights.

    Example:
        >>> resize_bias_table(torch.ones(27, 4), (2, 2, 2), (3, 3, 3)).shape
        torch.Size([125, 4])
    """
    spans = [2 * window - 1 for window in window_size]
    num_rows = spans[0] * spans[1] * spans[2]
    if table.ndim != 2 or len(table) != num_rows:
        raise ValueError(
            f"The bias table of windows of {tuple(window_size)} tokens must have {num_rows} rows, "
            f"got a tensor of shape {tuple(table.shape)}. Name the window that the table was learnt with."
        )
    volume = table.t().unflatten(1, spans)[None]
    new_spans = [2 * window - 1 for window in new_window_size]
    resized = F.interpolate(volume.float(), size=new_spans, mode="trilinear", align_corners=True)
    return resized[0].flatten(1).t().to(table.dtype).contiguous()
