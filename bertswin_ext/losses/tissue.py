"""Tissue-weighted loss: soft tissue and the surface of bone count extra."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.transforms.utils_morphological_ops import dilate, erode

from bertswin_ext.losses.reconstruction import to_patches
from bertswin_ext.losses.structure import SubpatchStructureLoss, structure_terms
from bertswin_ext.voxels import VOXELS

__all__ = ["TissueWeightedLoss", "bone_surface_shell"]

_SOFT_TISSUE_HU = (-300.0, 300.0)
_DILATIONS, _EROSIONS = 4, 2


def bone_surface_shell(label: torch.Tensor) -> torch.Tensor:
    """Voxels around the surface of bone: all bone dilated 4 times minus bone eroded 2 times, with a 3^3 cube.

    Args:
        label: (b, 1, i, j, k), 0 background, 1 mandible, 2 skull.

    Returns:
        (b, 1, i, j, k) bool.
    """
    bone = (label > 0).float()
    # n passes of a 3^3 cube are one pass of a (2n+1)^3 cube
    grown = dilate(bone, filter_size=2 * _DILATIONS + 1, pad_value=0.0)
    shrunk = erode(bone, filter_size=2 * _EROSIONS + 1, pad_value=1.0)
    return (grown > 0) & (shrunk == 0)


class TissueWeightedLoss(SubpatchStructureLoss):
    """0.3 L(all masked) + 0.5 L(masked, mostly soft tissue) + 0.2 L(masked, mostly bone surface).

    L is the structural loss. A patch is soft tissue when more than half of its voxels lie between -300 and 300 HU, bone
    surface when more than half lie in `bone_surface_shell`. A selection without patches contributes 0.

    Args:
        patch_size: edge of a token in voxels.
        subpatch_size: edge of a sub-patch in voxels.
        loss_weights: weights of brightness, contrast and structure inside L.
        tissue_weights: weights of all, soft tissue and bone surface.
        eps: added to the standard deviations, see `SubpatchStructureLoss`.
        score_invalid: also score masked tokens outside the field of view.

    Raises:
        ValueError: the target is not a mapping with ``image`` and ``label``.

    Source: arXiv 2512.21769, section 3.
    """

    def __init__(
        self,
        patch_size: int,
        subpatch_size: int = 8,
        loss_weights: tuple[float, float, float] = (0.3, 0.2, 0.5),
        tissue_weights: tuple[float, float, float] = (0.3, 0.5, 0.2),
        eps: float = 1e-8,
        score_invalid: bool = False,
    ) -> None:
        super().__init__(patch_size, subpatch_size, loss_weights, eps, score_invalid)
        if len(tissue_weights) != 3:
            raise ValueError(
                f"`tissue_weights` must be three: all, soft tissue, bone surface, got {tuple(tissue_weights)}."
            )
        self.tissue_weights = tuple(tissue_weights)

    def patch_terms(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        scored: torch.Tensor,
        fields: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Brightness, contrast and structure, each weighted over the three selections."""
        if "label" not in fields:
            raise ValueError(
                "TissueWeightedLoss needs a `label` beside the `image`, found only "
                f"{sorted(fields)}. Add labels to the datalist and keep them in the transforms, or use "
                "SubpatchStructureLoss."
            )
        totals: dict[str, torch.Tensor] = {}
        for weight, selected in zip(self.tissue_weights, self._selections(target, scored, fields), strict=True):
            sizes = (self.patch_size, self.subpatch_size, self.eps)
            for name, term in structure_terms(input, target, selected, *sizes).items():
                totals[name] = totals.get(name, 0.0) + weight * term
        return totals

    def _selections(
        self, target: torch.Tensor, scored: torch.Tensor, fields: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scored tokens: all, mostly soft tissue, mostly bone surface."""
        low, high = (VOXELS.normalized(hu) for hu in _SOFT_TISSUE_HU)
        soft = ((target > low) & (target < high)).float().mean(dim=-1) > 0.5
        shell = to_patches(bone_surface_shell(fields["label"]).float(), self.patch_size).mean(dim=-1) > 0.5
        return scored, scored & soft, scored & shell
