"""Conflict resolution on the K x K matrix of inner products: from the Gramian of K gradients to K weights.

Every function here is pure. The resolved gradient is ``weights @ rows``: the rows themselves are never touched, since
each projection only adds a multiple of one gradient to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from bertswin_ext.optimizers.checks import is_number

__all__ = [
    "RESOLVERS",
    "Arbitrate",
    "Resolver",
    "Thresholds",
    "checked_thresholds",
    "cosines",
    "smooth",
    "stronger",
    "zoned",
]

# inner products of float32 rows know a cosine no better
_ROUNDING = 1e-6

Resolver = Callable[[torch.Tensor], torch.Tensor]
"""From a Gramian (K, K) to the weights (K,) of the rows."""

Arbitrate = Callable[[torch.Tensor, torch.Tensor, int, int], int]
"""Which of two conflicting tasks wins, from the mixing matrix (row i: gradient i as it is now, in multiples of the raw
ones), the Gramian of the raw ones, and the two tasks."""


class Thresholds(NamedTuple):
    """Cosines at which a conflict is critical, serious, and none at all.

    Source: arXiv 2509.07252; the defaults are the paper's.
    """

    critical: float = -0.8
    main: float = -0.5
    weak: float = 0.0


DEFAULT_THRESHOLDS = Thresholds()


class _Cut(NamedTuple):
    """How much of the other's direction each gradient of a pair loses, and whether the loser stays at all."""

    winner: float
    loser: float
    keeps_loser: bool = True


def checked_thresholds(thresholds: Sequence[float]) -> Thresholds:
    """Return three cosines as thresholds, or say what is wrong with them.

    Raises:
        ValueError: they are not three, out of order, or no cosines.
    """
    found = tuple(thresholds) if isinstance(thresholds, Sequence) else thresholds
    is_valid = isinstance(found, tuple) and len(found) == 3 and all(map(is_number, found))
    if not is_valid or not -1 <= found[0] < found[1] < found[2] <= 1:
        raise ValueError(
            f"`thresholds` must be three cosines with -1 <= critical < main < weak <= 1, got {found!r}. The defaults "
            "are -0.8, -0.5 and 0."
        )
    return Thresholds(*found)


def stronger(mixing: torch.Tensor, gramian: torch.Tensor, i: int, j: int) -> int:
    """The task with the longer gradient wins; the first one, if they are equal."""
    squares = (mixing @ gramian @ mixing.T).diagonal()
    return j if squares[j] > squares[i] else i


def smooth(
    gramian: torch.Tensor,
    arbitrate: Arbitrate = stronger,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    max_conflicts: int | None = None,
) -> torch.Tensor:
    """Turn conflicting gradients away from each other, the more the stronger they conflict.

    The pair with the lowest cosine is taken until none is below ``thresholds.weak``. Between weak and main both lose a
    growing share of the other's direction; from main to critical the loser loses all of it and the winner less and
    less, down to nothing.

    Args:
        gramian: inner products of the gradients (K, K).
        arbitrate: decides who wins a conflict.
        thresholds: the zones of the cosine.
        max_conflicts: pairs that are taken at most; by default 2K.

    Returns:
        Weights (K,) of the raw gradients in the resolved sum, float64.

    Source: GradientConductor, arXiv 2509.07252, "smooth" resolution.

    Example:
        >>> smooth(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        tensor([1., 1.], dtype=torch.float64)
    """
    return _resolve(gramian, _smooth_cut, arbitrate, thresholds, max_conflicts)


def zoned(
    gramian: torch.Tensor,
    arbitrate: Arbitrate = stronger,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    max_conflicts: int | None = None,
) -> torch.Tensor:
    """Resolve conflicts by the zone their cosine lies in.

    Below critical the loser is dropped, below main it is projected orthogonal to the winner (as in PCGrad), below weak
    each is projected orthogonal to the other.

    Args:
        gramian: inner products of the gradients (K, K).
        arbitrate: decides who wins a conflict.
        thresholds: the zones of the cosine.
        max_conflicts: pairs that are taken at most; by default 2K.

    Returns:
        Weights (K,) of the raw gradients in the resolved sum, float64.

    Source: GradientConductor, arXiv 2509.07252, the zones of its first version.

    Example:
        >>> zoned(torch.tensor([[4.0, -1.8], [-1.8, 1.0]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    return _resolve(gramian, _zoned_cut, arbitrate, thresholds, max_conflicts)


RESOLVERS = {"smooth": smooth, "zoned": zoned}
"""Resolvers by name."""


def cosines(gramian: torch.Tensor) -> torch.Tensor:
    """Cosines (K, K) between vectors of a given Gramian; 0 with a vector of length zero."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    lengths = norms[:, None] * norms
    return torch.where(lengths > 0, gramian / lengths.where(lengths > 0, torch.ones_like(lengths)), 0.0)


def _resolve(
    gramian: torch.Tensor,
    cut: Callable[[float, Thresholds], _Cut],
    arbitrate: Arbitrate,
    thresholds: Sequence[float],
    max_conflicts: int | None,
) -> torch.Tensor:
    """Take the worst pair, cut it, and so on."""
    gramian, limits = gramian.detach().to("cpu", torch.float64), checked_thresholds(thresholds)
    num_tasks = len(gramian)
    mixing = torch.eye(num_tasks, dtype=torch.float64)
    for _ in range(2 * num_tasks if max_conflicts is None else max_conflicts):
        products = _products(mixing, gramian)
        i, j, cosine = _worst_pair(products)
        if cosine >= limits.weak - _ROUNDING:
            break
        winner = arbitrate(mixing, gramian, i, j)
        _apply(cut(cosine, limits), mixing, products, winner, loser=i + j - winner)
    return mixing.sum(dim=0)


def _apply(cut: _Cut, mixing: torch.Tensor, products: torch.Tensor, winner: int, loser: int) -> None:
    """Cut a pair, both from what they were before."""
    product = products[winner, loser]
    was_winner, was_loser = mixing[winner].clone(), mixing[loser].clone()
    mixing[winner] -= cut.winner * product / products[loser, loser] * was_loser
    mixing[loser] = cut.keeps_loser * was_loser - cut.loser * product / products[winner, winner] * was_winner


def _products(mixing: torch.Tensor, gramian: torch.Tensor) -> torch.Tensor:
    """Inner products of the gradients as they are now; zero for one of which only rounding is left."""
    parts = mixing.abs() @ gramian.diagonal().clamp(min=0).sqrt()
    products = mixing @ gramian @ mixing.T
    is_left = products.diagonal() > _ROUNDING * parts**2
    return products * is_left[:, None] * is_left


def _worst_pair(products: torch.Tensor) -> tuple[int, int, float]:
    """The two tasks i < j with the lowest cosine; (0, 0, 1) where there are not two gradients."""
    is_left = products.diagonal() > 0
    pairs = torch.triu(is_left[:, None] & is_left, diagonal=1)
    if not pairs.any():
        return 0, 0, 1.0
    values = torch.where(pairs, cosines(products), math.inf)
    i, j = divmod(int(values.argmin()), len(products))
    return i, j, float(values[i, j])


def _smooth_cut(cosine: float, thresholds: Thresholds) -> _Cut:
    """Shares that rise to the full projection at main; beyond it the winner's falls again."""
    critical, main, weak = thresholds
    if cosine >= main:
        angle = math.pi / 2 * (1 - (cosine - main) / (weak - main))
    elif cosine > critical:
        angle = math.pi / 2 * (1 + ((cosine - main) / (critical - main)) ** 2)
    else:
        angle = math.pi
    return _Cut(math.sin(angle), math.sin(min(angle, math.pi / 2)))


def _zoned_cut(cosine: float, thresholds: Thresholds) -> _Cut:
    """Nothing, all, or a drop."""
    if cosine < thresholds.critical:
        return _Cut(0.0, 0.0, keeps_loser=False)
    if cosine < thresholds.main:
        return _Cut(0.0, 1.0)
    return _Cut(1.0, 1.0)
