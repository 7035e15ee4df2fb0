"""Which tokens of a volume stay visible."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

__all__ = ["RatioOf", "VisibleTokens", "choose_visible", "visible_where"]

RatioOf = Literal["valid", "all"]


class VisibleTokens(NamedTuple):
    """The visible tokens of a batch as a flat list of m entries.

    Attributes:
        sample: (m,) index into the batch.
        token: (m,) index into the tokens of that sample, in the order in which the noise picks them.
        live: (m,) bool, False for entries that only pad the list to a fixed length.
    """

    sample: torch.Tensor
    token: torch.Tensor
    live: torch.Tensor


def choose_visible(
    noise: torch.Tensor,
    masking_ratio: float,
    valid: torch.Tensor | None = None,
    ratio_of: RatioOf = "valid",
    fixed_length: bool = False,
) -> VisibleTokens:
    """Pick the tokens with the lowest noise.

    Without ``valid`` every sample keeps int(n * (1 - ratio)) tokens. With it, invalid tokens are never picked and a
    sample keeps max(1, int(number of its valid tokens * (1 - ratio))), or nothing where no token is valid.

    Args:
        noise: (b, n).
        masking_ratio: share of the tokens to hide.
        valid: (b, n) bool, False outside the field of view.
        ratio_of: ``"all"`` keeps int(n * (1 - ratio)) tokens whatever is valid, as the reference code does; invalid
            tokens then become visible when too few are valid.
        fixed_length: keep b * int(n * (1 - ratio)) entries and flag the superfluous ones, so that shapes do not
            depend on data (for ``torch.compile`` and ``torch.export``).

    Returns:
        The visible tokens.

    Source: arXiv 2512.21769, section 3; the rule for valid tokens is ours.
    """
    num_samples, num_tokens = noise.shape
    num_kept = int(num_tokens * (1 - masking_ratio))
    if valid is not None:
        noise = noise.masked_fill(~valid, float("inf"))
    order = noise.argsort(dim=1, stable=True)[:, :num_kept]
    sample = torch.arange(num_samples, device=noise.device)[:, None].expand_as(order)
    live = torch.ones_like(order, dtype=torch.bool)
    if valid is not None and ratio_of == "valid":
        num_valid = valid.sum(dim=1)
        kept = (num_valid.double() * (1 - masking_ratio)).long().clamp(min=1).minimum(num_valid)
        live = torch.arange(num_kept, device=noise.device) < kept[:, None]
        if not fixed_length:
            return VisibleTokens(sample[live], order[live], live[live])
    return VisibleTokens(sample.flatten(), order.flatten(), live.flatten())


def visible_where(visible: torch.Tensor, fixed_length: bool = False) -> VisibleTokens:
    """List the tokens that are marked visible.

    Args:
        visible: (b, n) bool.
        fixed_length: list all b * n tokens and flag the others, so that shapes do not depend on data.

    Example:
        >>> visible_where(torch.tensor([[True, False], [False, True]])).token.tolist()
        [0, 1]
    """
    marks, num_tokens = visible.flatten(), visible.shape[1]
    place = torch.arange(len(marks), device=marks.device)
    if not fixed_length:
        place = place[marks]
    return VisibleTokens(place // num_tokens, place % num_tokens, marks[place])
