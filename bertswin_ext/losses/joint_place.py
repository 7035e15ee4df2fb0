"""How far a locator's scores are from where the joints are, or from knowing that they are nowhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["JointPlaceLoss", "found_share"]


class JointPlaceLoss(nn.Module):
    """Cross-entropy over the places that a joint may have, "nowhere" being one of them.

    A joint that is shown should be at its place, by a narrow Gaussian over the voxels; one that is not should be
    nowhere, whose score is 0. One at the edge of the scan does not count.

    Args:
        spacing_mm: edge of a voxel.
        sigma_mm: width of the Gaussian.

    Shape:
        Scores are (b, 2, i, j, k); the target is (b, 2, 4): a joint's place in voxels and 1 if it is shown, 0 if it is
        not, -1 at the edge.

    Returns:
        The mean over the joints that count.

    Source: ours; the Gaussian is that of heat-map regression, the rest is plain classification.

    Example:
        >>> loss = JointPlaceLoss(spacing_mm=4.0)
        >>> bool(loss(torch.full((1, 2, 8, 8, 8), -30.0), torch.zeros(1, 2, 4)) < 1e-6)
        True
    """

    def __init__(self, spacing_mm: float, sigma_mm: float = 3.0) -> None:
        super().__init__()
        if spacing_mm <= 0 or sigma_mm <= 0:
            raise ValueError(f"`spacing_mm` and `sigma_mm` must be above 0 mm, got {spacing_mm!r} and {sigma_mm!r}.")
        self.sigma_vox = sigma_mm / spacing_mm

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        scores, shown = scores.float(), target[..., 3]
        flat = scores.flatten(2)
        everything = torch.logaddexp(flat.logsumexp(2), flat.new_zeros(()))
        wanted = self._wanted(target[..., :3], scores).flatten(2)
        at_place = (wanted * flat).sum(2)
        losses = everything - torch.where(shown > 0, at_place, torch.zeros_like(at_place))
        counts = (shown >= 0).float()
        return (losses * counts).sum() / counts.sum().clamp(min=1.0)

    def _wanted(self, place: Tensor, scores: Tensor) -> Tensor:
        """Gaussians about the places, each of sum 1."""
        axes = [
            torch.softmax(
                -0.5 * ((torch.arange(n, device=place.device) - place[..., a : a + 1]) / self.sigma_vox) ** 2, -1
            )
            for a, n in enumerate(scores.shape[2:])
        ]
        return axes[0][..., :, None, None] * axes[1][..., None, :, None] * axes[2][..., None, None, :]


def found_share(scores: Tensor, target: Tensor, spacing_mm: float, within_mm: float = 10.0) -> Tensor:
    """Share of the joints that count for which the likeliest place is right, "nowhere" being one.

    Example:
        >>> target = torch.tensor([[[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> float(found_share(torch.full((1, 2, 8, 8, 8), -30.0), target, spacing_mm=4.0))
        0.5
    """
    flat, shown = scores.float().flatten(2), target[..., 3]
    is_somewhere = flat.logsumexp(2) > 0
    index = torch.stack(torch.unravel_index(flat.argmax(2), scores.shape[2:]), dim=-1)
    is_near = (index - target[..., :3]).norm(dim=-1) * spacing_mm <= within_mm
    right = torch.where(shown > 0, is_somewhere & is_near, ~is_somewhere)
    counts = (shown >= 0).float()
    return (right * counts).sum() / counts.sum().clamp(min=1.0)
