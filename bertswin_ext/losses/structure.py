"""Structural loss: brightness, contrast and structure of sub-patches."""

from __future__ import annotations

import torch

from bertswin_ext.losses.cubes import cube_means
from bertswin_ext.losses.reconstruction import ReconstructionLoss, mean_over_scored
from bertswin_ext.losses.subpatch_errors import subpatch_errors

__all__ = ["SubpatchStructureLoss", "structure_errors", "structure_terms"]

_TERMS = ("brightness", "contrast", "structure")


def structure_errors(
    input: torch.Tensor, target: torch.Tensor, patch_size: int, subpatch_size: int = 8, eps: float = 1e-8
) -> dict[str, torch.Tensor]:
    """Brightness, contrast and structure of every token, of which a term is the mean over some.

    Args:
        input: predicted patches (b, n, c*p*p*p).
        target: true patches, likewise.
        patch_size: edge of a patch in voxels.
        subpatch_size: edge of a sub-patch in voxels, a divisor of ``patch_size``.
        eps: added to the standard deviations before dividing by them.

    Returns:
        Three tensors (b, n).
    """
    batch, tokens, _ = input.shape
    cubes = (-1, patch_size, patch_size, patch_size)
    errors = subpatch_errors(input.unflatten(2, cubes), target.unflatten(2, cubes), subpatch_size, eps)
    return {name: error.reshape(batch, tokens, -1).mean(dim=-1) for name, error in zip(_TERMS, errors, strict=True)}


def structure_terms(
    input: torch.Tensor,
    target: torch.Tensor,
    scored: torch.Tensor,
    patch_size: int,
    subpatch_size: int = 8,
    eps: float = 1e-8,
    reduction: str = "tokens",
) -> dict[str, torch.Tensor]:
    """Means of `structure_errors` over the scored tokens (b, n) bool: three scalars, 0 when nothing is scored."""
    errors = structure_errors(input, target, patch_size, subpatch_size, eps)
    return {name: mean_over_scored(error, scored, reduction) for name, error in errors.items()}


class SubpatchStructureLoss(ReconstructionLoss):
    """0.3 brightness + 0.2 contrast + 0.5 structure over cubic sub-patches of the masked patches.

    With means m and population standard deviations s of every sub-patch: brightness = mean (m_p - m_t)^2,
    contrast = mean (s_p - s_t)^2, structure = mean of ((p - m_p) / (s_p + eps) - (t - m_t) / (s_t + eps))^2.

    Args:
        patch_size: edge of a token in voxels.
        subpatch_size: edge of a sub-patch in voxels; 8 in the paper.
        loss_weights: weights of brightness, contrast and structure.
        eps: added to the standard deviations. The paper's 1e-8 lets the gradient of nearly constant sub-patches (air)
            grow without bound; a larger value tames it, but lets a flat prediction score better (structure 1) than a
            wrong one (2): with 0.01 of the network's unit, a small network settled on flat patches.
        score_invalid: also score tokens outside the field of view, as the reference code does.
        reduction: see `ReconstructionLoss`.
        score_visible: also score the tokens that the network saw, see `ReconstructionLoss`.

    Raises:
        ValueError: ``subpatch_size`` does not divide ``patch_size``.

    Source: arXiv 2512.21769, section 3 ("ssim_a" of the authors' code). A constant sub-patch has deviation 0 here; the
    reference divides the rounding error of its mean by 1e-8.
    """

    term_names = _TERMS

    def __init__(
        self,
        patch_size: int,
        subpatch_size: int = 8,
        loss_weights: tuple[float, float, float] = (0.3, 0.2, 0.5),
        eps: float = 1e-8,
        score_invalid: bool = False,
        reduction: str = "tokens",
        score_visible: bool = False,
    ) -> None:
        super().__init__(patch_size, loss_weights, score_invalid, reduction, score_visible)
        if subpatch_size < 2 or patch_size % subpatch_size:
            raise ValueError(
                f"`subpatch_size` must be at least 2 and divide patch_size {patch_size}, got {subpatch_size}."
            )
        self.subpatch_size = subpatch_size
        self.eps = eps

    def token_errors(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms ``brightness``, ``contrast`` and ``structure``."""
        errors = subpatch_errors(input, target, self.subpatch_size, self.eps)
        parts = self.patch_size // self.subpatch_size
        tokens = (cube_means(error.mean(dim=1), parts).flatten(1) for error in errors)
        return dict(zip(self.term_names, tokens, strict=True))
