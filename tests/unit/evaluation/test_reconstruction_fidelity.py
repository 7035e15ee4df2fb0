"""Measures of a reconstruction: what they see, what they do not, and their exact values where these can be known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric

from bertswin_ext.evaluation.reconstruction_fidelity import (
    BoneSurfaceError,
    ComposedSSIM,
    StructureCorrelation,
    composed_volume,
    scored_voxels,
)
from bertswin_ext.voxels import VOXELS

PATCH, EDGE = 8, 16
NUM_TOKENS = (EDGE // PATCH) ** 3
AIR, BONE = VOXELS.normalized(-1000.0), VOXELS.normalized(1000.0)


def sample(seed: int = 0, batch: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A prediction that has nothing to do with its target; the last four tokens of every sample are hidden."""
    generator = torch.Generator().manual_seed(seed)
    image, guess = torch.randn(2, batch, 1, EDGE, EDGE, EDGE, generator=generator)
    masked = torch.arange(NUM_TOKENS).expand(batch, -1) >= NUM_TOKENS // 2
    return {"reconstruction": guess, "masked": masked}, {"image": image}


def bone(first: int) -> torch.Tensor:
    """Bone from a plane across the first axis on."""
    volume = torch.full((1, 1, EDGE, EDGE, EDGE), AIR)
    volume[:, :, first:] = BONE
    return volume


def test_a_token_is_the_cube_that_the_network_hides() -> None:
    prediction, target = sample()
    prediction["masked"] = torch.arange(NUM_TOKENS)[None] == 5  # tokens in C order: 5 is (1, 0, 1)
    expected = torch.zeros(1, 1, EDGE, EDGE, EDGE, dtype=torch.bool)
    expected[:, :, PATCH:, :PATCH, PATCH:] = True
    assert scored_voxels(prediction, target, PATCH).equal(expected)


def test_tokens_outside_the_field_of_view_are_not_scored() -> None:
    prediction, target = sample()
    target["valid"] = torch.arange(NUM_TOKENS)[None] < 5
    assert scored_voxels(prediction, target, PATCH).sum() == PATCH**3


def test_the_composed_volume_is_true_where_it_was_seen() -> None:
    prediction, target = sample()
    composed = composed_volume(prediction, target, PATCH)
    assert composed[:, :, :PATCH].equal(target["image"][:, :, :PATCH])
    assert composed[:, :, PATCH:].equal(prediction["reconstruction"][:, :, PATCH:])


@pytest.mark.parametrize(
    "measure",
    [ComposedSSIM(PATCH), StructureCorrelation(PATCH), BoneSurfaceError(PATCH, 0.5)],
    ids=lambda measure: type(measure).__name__,
)
def test_what_is_predicted_where_nothing_was_hidden_does_not_count(measure: ComposedSSIM) -> None:
    prediction, target = sample()
    before = measure(prediction, target)
    prediction["reconstruction"][:, :, :PATCH] += 100.0
    assert measure(prediction, target).equal(before)
    prediction["reconstruction"][:, :, PATCH:].neg_()
    assert not measure(prediction, target).equal(before)


@pytest.mark.parametrize(
    ("measure", "best"),
    [(ComposedSSIM(PATCH), 1.0), (StructureCorrelation(PATCH), 1.0), (BoneSurfaceError(PATCH, 0.5), 0.0)],
    ids=lambda value: type(value).__name__,
)
def test_the_truth_is_best(measure: ComposedSSIM, best: float) -> None:
    prediction, target = sample()
    prediction["reconstruction"] = target["image"].clone()
    assert float(measure(prediction, target)) == pytest.approx(best, abs=1e-5)


def test_ssim_is_that_of_monai() -> None:
    prediction, target = sample(batch=2)
    span = (VOXELS.max_hu - VOXELS.min_hu) / VOXELS.std_hu
    metric = SSIMMetric(spatial_dims=3, data_range=span, win_size=7)
    metric(composed_volume(prediction, target, PATCH), target["image"])
    assert float(ComposedSSIM(PATCH)(prediction, target)) == pytest.approx(float(metric.aggregate()), abs=1e-6)


@pytest.mark.parametrize("subpatch_size", [4, 8])
def test_correlation_is_the_mean_of_numpys_over_subpatches(subpatch_size: int) -> None:
    prediction, target = sample(seed=3, batch=2)
    found = StructureCorrelation(PATCH, subpatch_size)(prediction, target)
    coefficients = []
    for guess, truth in zip(prediction["reconstruction"][:, 0].numpy(), target["image"][:, 0].numpy(), strict=True):
        for i in range(PATCH, EDGE, subpatch_size):  # the second half was hidden
            for j in range(0, EDGE, subpatch_size):
                for k in range(0, EDGE, subpatch_size):
                    cube = tuple(slice(start, start + subpatch_size) for start in (i, j, k))
                    coefficients.append(np.corrcoef(guess[cube].ravel(), truth[cube].ravel())[0, 1])
    assert float(found) == pytest.approx(np.mean(coefficients), abs=1e-5)


def test_correlation_knows_neither_brightness_nor_contrast_but_the_sign() -> None:
    prediction, target = sample()
    prediction["reconstruction"] = 3.0 + 0.2 * target["image"]
    assert float(StructureCorrelation(PATCH)(prediction, target)) == pytest.approx(1.0, abs=1e-5)
    prediction["reconstruction"] = -target["image"]
    assert float(StructureCorrelation(PATCH)(prediction, target)) == pytest.approx(-1.0, abs=1e-5)


def test_flat_predictions_have_no_correlation_and_flat_truth_is_not_looked_at() -> None:
    prediction, target = sample()
    prediction["reconstruction"] = torch.zeros_like(target["image"])
    assert float(StructureCorrelation(PATCH)(prediction, target)) == 0.0

    prediction, target = sample()
    target["image"][:, :, PATCH:, :PATCH] *= 0.1  # 58 HU: noise
    prediction["reconstruction"] = target["image"].clone()
    prediction["reconstruction"][:, :, PATCH:, :PATCH] = torch.randn(1, 1, PATCH, PATCH, EDGE)
    assert float(StructureCorrelation(PATCH)(prediction, target)) == pytest.approx(1.0, abs=1e-5)


def test_samples_count_alike_however_many_of_their_subpatches_do_and_not_without_any() -> None:
    prediction, target = sample(batch=3)
    target["image"][0, :, PATCH:, :PATCH] *= 0.1  # half of what was hidden is flat
    target["image"][1] = 0.0
    alone = [
        float(StructureCorrelation(PATCH)({k: v[n : n + 1] for k, v in prediction.items()}, {"image": image[None]}))
        for n, image in enumerate(target["image"])
    ]
    assert float(StructureCorrelation(PATCH)(prediction, target)) == pytest.approx((alone[0] + alone[2]) / 2, abs=1e-6)


def test_correlation_of_a_volume_without_structure_is_zero() -> None:
    prediction, target = sample()
    target["image"] = torch.zeros_like(target["image"])
    assert float(StructureCorrelation(PATCH)(prediction, target)) == 0.0


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_surface_that_is_off_by_voxels_is_off_by_so_many_mm(shift: int) -> None:
    prediction, target = sample()
    target["image"], prediction["reconstruction"] = bone(11), bone(11 + shift)
    prediction["masked"] = torch.ones(1, NUM_TOKENS, dtype=torch.bool)
    assert float(BoneSurfaceError(PATCH, spacing_mm=0.5)(prediction, target)) == pytest.approx(0.5 * shift)


def test_bone_that_is_not_there_counts_with_the_limit() -> None:
    prediction, target = sample()
    prediction["masked"] = torch.ones(1, NUM_TOKENS, dtype=torch.bool)
    target["image"], prediction["reconstruction"] = bone(8), torch.full_like(target["image"], AIR)
    assert float(BoneSurfaceError(PATCH, 0.5, limit_mm=2.5)(prediction, target)) == 2.5
    assert float(BoneSurfaceError(PATCH, 0.5, limit_mm=2.5)({**prediction, "reconstruction": bone(8)}, target)) == 0.0


def test_a_sample_without_bone_counts_nothing_unless_some_is_invented() -> None:
    empty = torch.full((1, 1, EDGE, EDGE, EDGE), AIR)
    masked = torch.ones(2, NUM_TOKENS, dtype=torch.bool)
    target = {"image": torch.cat([bone(10), empty])}
    measure = BoneSurfaceError(PATCH, 0.5, limit_mm=2.5)
    right = {"reconstruction": torch.cat([bone(12), empty]), "masked": masked}
    assert float(measure(right, target)) == pytest.approx((1.0 + 0.0) / 2)
    invented = {"reconstruction": torch.cat([bone(12), bone(3)]), "masked": masked}
    assert float(measure(invented, target)) == pytest.approx((1.0 + 2.5) / 2)


def test_batches_are_means_of_their_samples() -> None:
    prediction, target = sample(batch=2)
    ones = [
        ({name: value[n : n + 1] for name, value in prediction.items()}, {"image": target["image"][n : n + 1]})
        for n in range(2)
    ]
    for measure in (ComposedSSIM(PATCH), StructureCorrelation(PATCH), BoneSurfaceError(PATCH, 0.5)):
        parts = [float(measure(*one)) for one in ones]
        assert float(measure(prediction, target)) == pytest.approx(math.fsum(parts) / 2, abs=1e-6)


def test_a_subpatch_that_does_not_divide_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`subpatch_size` must be at least 2 and divide patch_size 8, got 3\."):
        StructureCorrelation(8, 3)
