"""Brightness, contrast and structure of sub-patches, with their gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertswin_ext.losses.cubes import as_rows, as_volume, cube_means, over_rows

__all__ = ["subpatch_errors"]

# far below any variance that float32 can tell from zero: only keeps the gradient of the root finite
_TINY_VARIANCE = 1e-24


def subpatch_errors(input: Tensor, target: Tensor, size: int, eps: float = 1e-8) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of brightness, contrast and structure of every sub-patch.

    With the mean m, the population variance v and the deviation s = sqrt(max(v, 1e-24)) of a sub-patch of N voxels,
    its centred voxels x = p - m_p and y = t - m_t, r = 1 / (s + eps), q = 1 / s (0 where v is below 1e-24)::

        brightness  B = (m_p - m_t)^2            dB/dp = 2/N (m_p - m_t)
        contrast    C = (s_p - s_t)^2            dC/dp = 2/N (s_p - s_t) q x
        structure   S = mean (r_p x - r_t y)^2   dS/dp = 2/N (r_p (r_p - h q) x - r_p r_t y)

    where q is that of p, and h = r_p mean((r_p x - r_t y) x) = (r_p^2 v_p - r_t^2 v_t + S) / 2.

    The backward pass of one of the three does the work of one; x, y and figures per sub-patch are kept for it.

    Args:
        input: predicted volume (..., i, j, k).
        target: true volume, likewise.
        size: edge of a sub-patch in voxels, a divisor of i, j and k.
        eps: added to the standard deviations before dividing by them.

    Returns:
        Three tensors (..., i / size, j / size, k / size).

    Raises:
        RuntimeError: a derivative of the gradient is asked for.
    """
    brightness, contrast, structure = _SubpatchErrors.apply(input, target, size, eps)  # type: ignore[no-untyped-call]
    return brightness, contrast, structure


class _SubpatchErrors(torch.autograd.Function):
    """`subpatch_errors`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, size: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """The three errors."""
        # differences first and means of them after, here and below: exact where both are alike
        difference = cube_means(input - target, size)
        x, y = _centred(input, size), _centred(target, size)
        var_p, var_t = _means(x.square(), size), _means(y.square(), size)
        std_p, std_t = _deviation(var_p), _deviation(var_t)
        apart = torch.addcmul(x, over_rows((std_p + eps) / (std_t + eps), size), y, value=-1)
        structure = _means(apart.square_(), size) / (std_p + eps) ** 2
        ctx.save_for_backward(x, y, difference, var_p, var_t, structure)
        ctx.size, ctx.eps = size, eps
        ctx.set_materialize_grads(False)
        return difference**2, (std_p - std_t) ** 2, structure

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of the prediction and, where asked for, of the target: the errors are symmetric."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("Errors of sub-patches have no second derivative: do without `create_graph`.")
        x, y, difference, var_p, var_t, structure = ctx.saved_tensors
        of_input = of_target = None
        if ctx.needs_input_grad[0]:
            of_input = _gradient(outer, (x, y), difference, (var_p, var_t), structure, ctx.size, ctx.eps)
        if ctx.needs_input_grad[1]:
            of_target = _gradient(outer, (y, x), -difference, (var_t, var_p), structure, ctx.size, ctx.eps)
        return of_input, of_target, None, None


def _centred(x: Tensor, size: int) -> Tensor:
    """A volume less the means of its sub-patches, as rows."""
    # relative to the first voxel, so that a constant sub-patch centres to exact zeros
    rows = as_rows(x, size) - over_rows(x[..., ::size, ::size, ::size], size)
    return rows.sub_(over_rows(_means(rows, size), size))


def _means(rows: Tensor, size: int) -> Tensor:
    """Means of the sub-patches of rows."""
    return cube_means(as_volume(rows), size)


def _deviation(variance: Tensor) -> Tensor:
    """Standard deviation, above 0."""
    return variance.clamp(min=_TINY_VARIANCE).sqrt()


def _gradient(
    outer: tuple[Tensor | None, ...],
    rows: tuple[Tensor, Tensor],
    difference: Tensor,
    variances: tuple[Tensor, Tensor],
    structure: Tensor,
    size: int,
    eps: float,
) -> Tensor | None:
    """Gradient of the volume that comes first of the two, as `subpatch_errors` says; None where nothing asks for it."""
    of_brightness, of_contrast, of_structure = (None if g is None else g * (2 / size**3) for g in outer)
    parts: list[tuple[Tensor, Tensor]] = []
    if of_contrast is not None:
        parts.append((of_contrast * _contrast_factor(variances), rows[0]))
    if of_structure is not None:
        factors = _structure_factors(variances, structure, eps)
        parts += [(of_structure * factor, x) for factor, x in zip(factors, rows, strict=True)]
    total = _weighted(parts, size)
    if of_brightness is not None:
        shift = over_rows(of_brightness * difference, size)
        total = shift.expand_as(rows[0]).contiguous() if total is None else total.add_(shift)
    return None if total is None else as_volume(total)


def _contrast_factor(variances: tuple[Tensor, Tensor]) -> Tensor:
    """(s_p - s_t) q."""
    own, other = (_deviation(variance) for variance in variances)
    return (own - other) * _slope(variances[0])


def _structure_factors(variances: tuple[Tensor, Tensor], structure: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """r_p (r_p - h q) and -r_p r_t."""
    own, other = (1 / (_deviation(variance) + eps) for variance in variances)
    along = (own**2 * variances[0] - other**2 * variances[1] + structure) / 2
    return own * (own - along * _slope(variances[0])), -own * other


def _slope(variance: Tensor) -> Tensor:
    """q, the derivative of the deviation by the variance, times 2."""
    return torch.where(variance < _TINY_VARIANCE, 0.0, 1 / _deviation(variance))


def _weighted(parts: list[tuple[Tensor, Tensor]], size: int) -> Tensor | None:
    """Sum of rows, each times a factor per sub-patch."""
    total: Tensor | None = None
    for factor, rows in parts:
        spread = over_rows(factor, size)
        total = rows * spread if total is None else total.addcmul_(rows, spread)
    return total
