"""Mean squared error on masked tokens."""

from __future__ import annotations

import torch

from bertswin_ext.losses.cubes import cube_means
from bertswin_ext.losses.reconstruction import ReconstructionLoss, mean_over_scored

__all__ = ["MaskedL2Loss", "masked_l2"]


def masked_l2(
    input: torch.Tensor, target: torch.Tensor, scored: torch.Tensor, reduction: str = "tokens"
) -> torch.Tensor:
    """Mean squared error over the voxels of the scored patches.

    Args:
        input: predicted patches (b, n, v), v voxels in a patch.
        target: true patches (b, n, v).
        scored: (b, n) bool.
        reduction: see `ReconstructionLoss`.

    Returns:
        A scalar, 0 when nothing is scored.
    """
    return mean_over_scored(((input - target) ** 2).mean(dim=-1), scored, reduction)


class MaskedL2Loss(ReconstructionLoss):
    """Mean squared error over the voxels of masked patches.

    See `ReconstructionLoss` for arguments and shapes.

    Source: He et al., arXiv 2111.06377, section 3, on raw voxels.
    """

    term_names = ("l2",)

    def token_errors(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The single term ``l2``."""
        return {"l2": cube_means((input - target) ** 2, self.patch_size).mean(dim=1).flatten(1)}
