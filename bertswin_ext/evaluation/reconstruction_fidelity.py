"""How true a reconstruction is, in measures that are the same whatever a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.regression import KernelType, compute_ssim_and_cs

from bertswin_ext.data.phantoms.distance_maps import signed_distance
from bertswin_ext.evaluation.surface_distances import surface_voxels
from bertswin_ext.losses.cubes import as_rows, as_volume, cube_means, over_rows
from bertswin_ext.losses.reconstruction import scored_tokens
from bertswin_ext.voxels import VOXELS

__all__ = ["BoneSurfaceError", "ComposedSSIM", "StructureCorrelation", "composed_volume", "scored_voxels"]

Fields = Mapping[str, torch.Tensor]


def scored_voxels(prediction: Fields, target: Fields, patch_size: int) -> torch.Tensor:
    """Voxels of the hidden tokens that lie in the field of view: what a network had to invent, and could know.

    Args:
        prediction: ``masked`` (b, n) bool.
        target: ``image`` (b, c, i, j, k) and, where known, ``valid`` (b, n) bool.
        patch_size: edge of a token in voxels.

    Returns:
        (b, 1, i, j, k) bool.
    """
    scored = scored_tokens(prediction["masked"], target.get("valid"))
    grid = [edge // patch_size for edge in target["image"].shape[2:]]
    voxels = scored.unflatten(1, [1, *grid])
    for axis in (2, 3, 4):
        voxels = voxels.repeat_interleave(patch_size, axis)
    return voxels


def composed_volume(prediction: Fields, target: Fields, patch_size: int) -> torch.Tensor:
    """The true volume with the reconstruction in the place of what was hidden.

    Args:
        prediction: ``reconstruction`` (b, c, i, j, k) and ``masked`` (b, n) bool.
        target: see `scored_voxels`.
        patch_size: edge of a token in voxels.

    Returns:
        (b, c, i, j, k) float32.
    """
    scored = scored_voxels(prediction, target, patch_size)
    return torch.where(scored, prediction["reconstruction"].float(), target["image"].float())


class ComposedSSIM:
    """Structural similarity of the composed volume and the true one, from -1 to 1, 1 being equal.

    Args:
        patch_size: edge of a token in voxels.
        win_size: edge of the Gaussian window in voxels.

    Source: Wang et al., IEEE TIP 13 (2004) 600-612; that of `monai.metrics.SSIMMetric` in 3D, over the range of the
        clipped HU.
    """

    def __init__(self, patch_size: int, win_size: int = 7) -> None:
        self.patch_size, self.win_size = patch_size, win_size
        self.span = VOXELS.normalized(VOXELS.max_hu) - VOXELS.normalized(VOXELS.min_hu)

    def __call__(self, prediction: Fields, target: Fields) -> torch.Tensor:
        """Mean over the batch; see `composed_volume` for what is given."""
        composed = composed_volume(prediction, target, self.patch_size)
        similarity, _ = compute_ssim_and_cs(
            composed,
            target["image"].float(),
            spatial_dims=3,
            kernel_size=[self.win_size] * 3,
            kernel_sigma=[1.5] * 3,
            data_range=self.span,
            kernel_type=KernelType.GAUSSIAN,
        )
        return similarity.mean()


class StructureCorrelation:
    """Pearson's correlation of prediction and truth within the hidden sub-patches that show anything, 1 being best.

    Brightness and contrast of a sub-patch do not count, noise in flat ones neither: only those are taken whose true
    voxels deviate by ``min_std_hu`` or more. A flat prediction has no correlation and counts 0.

    Args:
        patch_size: edge of a token in voxels.
        subpatch_size: edge of a sub-patch in voxels, a divisor of ``patch_size``; 8, or the patch's if that is less,
            when None.
        min_std_hu: smallest standard deviation of a sub-patch that is looked at.
    """

    def __init__(self, patch_size: int, subpatch_size: int | None = None, min_std_hu: float = 100.0) -> None:
        subpatch_size = min(8, patch_size) if subpatch_size is None else subpatch_size
        if subpatch_size < 2 or patch_size % subpatch_size:
            raise ValueError(
                f"`subpatch_size` must be at least 2 and divide patch_size {patch_size}, got {subpatch_size}."
            )
        self.patch_size, self.subpatch_size = patch_size, subpatch_size
        self.min_std = min_std_hu / VOXELS.std_hu

    def __call__(self, prediction: Fields, target: Fields) -> torch.Tensor:
        """Mean over such sub-patches, sample by sample, then over the samples that have any; 0 where none has."""
        size = self.subpatch_size
        guess, guess_std = _centred(prediction["reconstruction"].float(), size)
        truth, truth_std = _centred(target["image"].float(), size)
        covariance = cube_means(guess * truth, size)
        correlation = covariance / (guess_std * truth_std).clamp(min=1e-6)
        scored = cube_means(scored_voxels(prediction, target, self.patch_size).float(), size) > 0.5
        chosen = scored & (truth_std >= self.min_std)
        counts = chosen.flatten(1).sum(dim=1)
        means = torch.where(chosen, correlation, 0.0).flatten(1).sum(dim=1) / counts.clamp(min=1)
        return means.sum() / (counts > 0).sum().clamp(min=1)


class BoneSurfaceError:
    """Mean distance in mm between the surfaces of predicted and true bone, where tokens were hidden, both directions.

    Bone is what is denser than ``threshold_hu``. Bone that was left out or invented counts with its distance from the
    other surface, at most ``limit_mm``; a sample in which there is no bone, and none was invented, with 0.

    Args:
        patch_size: edge of a token in voxels.
        spacing_mm: edge of a voxel.
        threshold_hu: from where on a voxel is bone.
        limit_mm: largest distance that counts.
    """

    def __init__(
        self, patch_size: int, spacing_mm: float = VOXELS.spacing_mm, threshold_hu: float = 400.0, limit_mm: float = 5.0
    ) -> None:
        self.patch_size, self.spacing_mm, self.limit_mm = patch_size, spacing_mm, limit_mm
        self.threshold = VOXELS.normalized(threshold_hu)

    def __call__(self, prediction: Fields, target: Fields) -> torch.Tensor:
        """Mean over the samples."""
        guess = composed_volume(prediction, target, self.patch_size) > self.threshold
        truth = target["image"].float() > self.threshold
        scored = scored_voxels(prediction, target, self.patch_size)
        samples = zip(*(masks[:, 0].cpu().numpy() for masks in (guess, truth, scored)), strict=True)
        found = [self._distances(*masks) for masks in samples]
        return torch.tensor(float(np.mean([distances.mean() if len(distances) else 0.0 for distances in found])))

    def _distances(
        self, guess: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], scored: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Of the scored voxels of either surface from the other one."""
        surfaces = _surface(guess), _surface(truth)
        pairs = zip(surfaces, reversed(surfaces), strict=True)
        return np.concatenate([self._to(other)[surface & scored] for surface, other in pairs])

    def _to(self, surface: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """How far every voxel is from a surface."""
        if not surface.any():
            return np.full(surface.shape, self.limit_mm, np.float32)
        return signed_distance(surface, [self.spacing_mm] * 3).clip(0.0, self.limit_mm)


def _surface(bone: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Its surface; where the volume cuts through bone there is none."""
    return surface_voxels(np.pad(bone, 1, mode="edge"))[1:-1, 1:-1, 1:-1]


def _centred(volume: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A volume without the means of its cubes, and the standard deviations of these."""
    means = over_rows(cube_means(volume, size), size)
    centred = as_volume(as_rows(volume, size) - means)
    return centred, cube_means(centred**2, size).sqrt()
